"""The `inspect` stage: raw lists are judged as they came, before anything is made of them.

What it names are files and rows of whoever delivered them; the `validate` stage behind `prepare` looks at what became
of these, and at everything that takes more than a file and the names of its pictures.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from albef.config import ConfigError, ListsConfig, PrepareConfig, ValidateConfig
from albef.data.files import new_folder, write_text
from albef.data.schema import LISTS, images_of, problems
from albef.datasets import official_lists
from albef.datasets.emoji import lexicon
from albef.validation.gx_runner import Finding, Inspector, told

SPRITES = "lexicon.json"
# A replacement character, a control character, or UTF-8 that was read as Latin-1.
_BROKEN_TEXT = re.compile("[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\u00c3[\u0080-\u00bf]|\u00e2\u20ac")
_CRITICAL, _WARNING = "critical", "warning"


class RawError(ValueError):
    """The raw lists broke an expectation; the message names it with file, rows and examples."""


def run(config: PrepareConfig, gate: ValidateConfig, raw: Path, out: Path) -> None:
    """Judge every file that `albef prepare` is going to read.

    Args:
        gate: What is done about bad records: the same as behind `prepare`.
        raw: The raw data, as in `albef.datasets.prepare.run`.
        out: Folder to write: ``report.json`` and ``docs/`` (HTML).

    Raises:
        RawError: If an expectation fails beyond what ``gate`` allows. Report and docs are written all the same.
        SchemaError: If a file is missing or no JSON list, or a folder of pictures is missing.
        LexiconError: If the list of sprites is missing or none.
        ConfigError: If the source is ``lists`` and none are configured.
    """
    if config.source == "lists" and config.lists is None:
        raise ConfigError("prepare.lists: missing key; expected image_root and files for the source 'lists'")
    with new_folder(out) as aside:
        inspector = Inspector(aside / "docs")
        if config.source == "lists" and config.lists is not None:
            sizes, findings = _lists(inspector, config.lists, raw)
        else:
            sizes, findings = _sprites(inspector, raw)
        inspector.write_docs()
        refused = _refused(gate, sizes, findings)
        files = {file: {"list": name, "rows": rows} for name, of in sizes.items() for file, rows in of.items()}
        report = {"success": not refused, "files": files, "expectations": [finding.report() for finding in findings]}
        write_text(aside / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if refused:
        raise RawError(told(refused, out))


Sizes = dict[str, dict[str, int]]
"""By list, the rows of its files."""


def _lists(inspector: Inspector, config: ListsConfig, raw: Path) -> tuple[Sizes, list[Finding]]:
    official_lists.check(config, raw / config.image_root)
    sizes: Sizes = {}
    findings: list[Finding] = []
    seen: dict[str, bool] = {}
    names = [name for name in config.files if name in LISTS]
    every = [file for name in names for file in config.files[name]]
    for name in tqdm(names, desc="inspect", unit="list", disable=None):
        for file in config.files[name]:
            rows = official_lists.rows_of(name, file, config, raw)
            label = file if every.count(file) == 1 else f"{name} of {file}"  # some serve two lists
            sizes.setdefault(name, {})[label] = len(rows)
            table = _table(rows, LISTS[name], raw / config.image_root, seen)
            findings += inspector.judge(label, _suite(inspector.gx.expectations, table), table)
    return sizes, findings


def _table(rows: Sequence[Any], kind: str, root: Path, seen: dict[str, bool]) -> pd.DataFrame:
    wrong = [problems(row, kind) for row in rows]
    sound = [None if found else row for row, found in zip(rows, wrong, strict=True)]
    first: dict[str, int] = {}
    columns = {
        "schema_problem": [found[0] if found else None for found in wrong],
        "picture_problem": [None if row is None else _lost(images_of(row), root, seen) for row in sound],
        "text_problem": [None if row is None else _broken(row) for row in sound],
        "duplicate_problem": [
            None if row is None else _repeated(row, number, first) for number, row in enumerate(sound)
        ],
    }
    return _framed(columns, len(rows))


def _lost(images: Sequence[str], root: Path, seen: dict[str, bool]) -> str | None:
    """A picture of a record that is not where the record says."""
    for image in images:
        if image not in seen:
            seen[image] = os.path.isfile(root / image)
        if not seen[image]:
            return f"{image}: no such file below {root}"
    return None


def _broken(record: dict[str, Any]) -> str | None:
    """A text that was damaged on its way."""
    for key, value in record.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (found := _BROKEN_TEXT.search(text)):
                return f"{key}: {found.group()!r} in {text[:60]!r}"
    return None


def _repeated(record: dict[str, Any], row: int, first: dict[str, int]) -> str | None:
    before = first.setdefault(json.dumps(record, sort_keys=True), row)
    return None if before == row else f"the same as row {before}"


def _sprites(inspector: Inspector, raw: Path) -> tuple[Sizes, list[Finding]]:
    entries = lexicon.entries(raw)
    table = _framed({"schema_problem": lexicon.problems(raw, entries)}, len(entries))
    return {SPRITES: {SPRITES: len(entries)}}, inspector.judge(SPRITES, _suite(inspector.gx.expectations, table), table)


def _framed(columns: dict[str, list[str | None]], rows: int) -> pd.DataFrame:
    table = {name: pd.Series(values, dtype="object") for name, values in columns.items()}
    return pd.DataFrame({"row": pd.Series(range(rows), dtype="int64"), **table})


_NAMES = {
    "schema_problem": ("schema", _CRITICAL, "Every record has the fields of its format."),
    "picture_problem": ("pictures_there", _CRITICAL, "Every picture is where the record says."),
    "text_problem": ("texts_undamaged", _WARNING, "No text has characters of a wrong decoding."),
    "duplicate_problem": ("rows_differ", _WARNING, "No record is there twice."),
}


def _suite(e: Any, table: pd.DataFrame) -> list[Any]:
    found = [e.ExpectTableRowCountToBeBetween(min_value=1, meta={"name": "not_empty"}, severity=_CRITICAL)]
    for column, (name, severity, notes) in _NAMES.items():
        if column in table:
            found.append(
                e.ExpectColumnValuesToBeNull(column=column, meta={"name": name}, notes=notes, severity=severity)
            )
    return found


_WARNINGS = {name for name, severity, _ in _NAMES.values() if severity == _WARNING}


def _refused(gate: ValidateConfig, sizes: Sizes, findings: list[Finding]) -> list[Finding]:
    """The failed expectations that stop the pipeline: of a list, whichever of its files they are in."""
    refused = []
    for files in sizes.values():
        failed = [f for f in findings if f.list in files and not f.success and f.name not in _WARNINGS]
        bad = {(finding.list, row) for finding in failed for row in finding.bad}
        allowed = gate.max_bad_share * sum(files.values())
        many = gate.on_bad_record == "refuse" or len(bad) > allowed
        refused += [finding for finding in failed if many or not finding.bad]
    return refused
