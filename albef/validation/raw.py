"""The `inspect` stage: validates raw lists as delivered, before any conversion.

Findings refer to files and rows of the raw data. The `validate` stage after `prepare` checks the converted lists, and
everything that takes more than a single file and its image paths.
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

from albef.config import ListsConfig, PairsConfig, PrepareConfig, ValidateConfig
from albef.data.files import new_folder
from albef.data.schema import images_of, known_lists
from albef.data.shards import expand
from albef.datasets import official_lists, photo_folder, shards
from albef.datasets.emoji import lexicon
from albef.io import write_file
from albef.validation.features import check_records
from albef.validation.gx_runner import Finding, GxRunner, fatal, format_failures

SPRITES = "lexicon.json"
# A replacement character, a control character, or UTF-8 decoded as Latin-1.
_DAMAGED_TEXT = re.compile("[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\u00c3[\u0080-\u00bf]|\u00e2\u20ac")
_CRITICAL, _WARNING = "critical", "warning"


class RawError(ValueError):
    """A failed expectation on raw lists, named with file and rows."""


def run(config: PrepareConfig, gate: ValidateConfig, raw: Path, out: Path) -> None:
    """Validate every file that `albef prepare` is going to read.

    Args:
        gate: Policy for bad records, shared with the `validate` stage.
        raw: Raw data, as in `albef.datasets.prepare.run`.
        out: Folder to write: ``report.json`` and ``docs/`` (HTML).

    Raises:
        RawError: If an expectation fails beyond what ``gate`` allows. Report and docs are still written.
        SchemaError: If a file is missing or not a JSON list, or an image folder is missing.
        LexiconError: If the list of sprites is missing or malformed.
        ConfigError: If the section of the source is missing.
    """
    config.check()
    with new_folder(out) as folder:
        runner = GxRunner(folder / "docs")
        if config.source == "lists" and config.lists is not None:
            sizes, findings = _lists(runner, config.lists, raw)
        elif config.source == "stream" and config.pairs is not None:
            sizes, findings = {"pairs": dict.fromkeys(expand(config.pairs.path, raw), 0)}, []
        elif config.source == "pairs" and config.pairs is not None:
            sizes, findings = _pairs(runner, config.pairs, raw)
        else:
            sizes, findings = _sprites(runner, raw)
        runner.write_docs()
        failures = [f for rows in sizes.values() for f in fatal(gate, rows, findings, _WARNINGS)]
        files = {file: {"list": name, "rows": rows} for name, counts in sizes.items() for file, rows in counts.items()}
        report = {"success": not failures, "files": files, "expectations": [finding.report() for finding in findings]}
        write_file(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if failures:
        raise RawError(format_failures(failures, out))


Sizes = dict[str, dict[str, int]]
"""Number of rows by list and file."""


def _lists(runner: GxRunner, config: ListsConfig, raw: Path) -> tuple[Sizes, list[Finding]]:
    official_lists.check(config, raw / config.image_root)
    sizes: Sizes = {}
    findings: list[Finding] = []
    exists: dict[str, bool] = {}
    names = [name for name in config.files if name in known_lists()]
    all_files = [file for name in names for file in config.files[name]]
    for name in tqdm(names, desc="inspect", unit="list", disable=None):
        for file in config.files[name]:
            rows = list(official_lists.rows_of(name, file, config, raw))
            label = file if all_files.count(file) == 1 else f"{name} of {file}"  # several lists may share a file
            sizes.setdefault(name, {})[label] = len(rows)
            table = _table(rows, known_lists()[name], raw / config.image_root, exists)
            findings += runner.validate(label, _suite(runner.gx.expectations, table), table)
    return sizes, findings


def _pairs(runner: GxRunner, config: PairsConfig, raw: Path) -> tuple[Sizes, list[Finding]]:
    """Check the captions of a folder of images.

    Shards are only looked up: `albef prepare` reads them, once.
    """
    if config.path.startswith(shards.HUB) or shards.files(config.path, raw) is not None:
        return {}, []
    folder = raw / config.path
    rows = list(photo_folder.rows(folder, config.image, config.caption))
    label = (photo_folder.table(folder) or folder).name
    table = _table(rows, "pretrain", folder, {})
    return {"pairs": {label: len(rows)}}, runner.validate(label, _suite(runner.gx.expectations, table), table)


def _table(rows: Sequence[Any], kind: str, root: Path, exists: dict[str, bool]) -> pd.DataFrame:
    valid, malformed = check_records(rows, kind)
    first: dict[str, int] = {}
    columns = {
        "schema_problem": malformed,
        "image_problem": [None if row is None else _missing_image(images_of(row), root, exists) for row in valid],
        "text_problem": [None if row is None else _damaged_text(row) for row in valid],
        "duplicate_problem": [
            None if row is None else _duplicate(row, number, first) for number, row in enumerate(valid)
        ],
    }
    return _to_frame(columns, len(rows))


def _missing_image(images: Sequence[str], root: Path, exists: dict[str, bool]) -> str | None:
    """Return a message for the first missing image of a record.

    Args:
        exists: Cache of previous lookups by path.
    """
    for image in images:
        if image not in exists:
            exists[image] = os.path.isfile(root / image)
        if not exists[image]:
            return f"{image}: no such file below {root}"
    return None


def _damaged_text(record: dict[str, Any]) -> str | None:
    """Return a message for the first damaged text of a record."""
    for key, value in record.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (match := _DAMAGED_TEXT.search(text)):
                return f"{key}: {match.group()!r} in {text[:60]!r}"
    return None


def _duplicate(record: dict[str, Any], row: int, first: dict[str, int]) -> str | None:
    first_row = first.setdefault(json.dumps(record, sort_keys=True), row)
    return None if first_row == row else f"the same as row {first_row}"


def _sprites(runner: GxRunner, raw: Path) -> tuple[Sizes, list[Finding]]:
    entries = lexicon.entries(raw)
    table = _to_frame({"schema_problem": lexicon.problems(raw, entries)}, len(entries))
    return {SPRITES: {SPRITES: len(entries)}}, runner.validate(SPRITES, _suite(runner.gx.expectations, table), table)


def _to_frame(columns: dict[str, list[str | None]], rows: int) -> pd.DataFrame:
    table = {name: pd.Series(values, dtype="object") for name, values in columns.items()}
    return pd.DataFrame({"row": pd.Series(range(rows), dtype="int64"), **table})


# By column: name, severity and notes of the expectation that it is empty.
_EXPECTATIONS = {
    "schema_problem": ("schema", _CRITICAL, "Every record has the fields of its format."),
    "image_problem": ("images_exist", _CRITICAL, "Every image file exists."),
    "text_problem": ("texts_undamaged", _WARNING, "No text has characters of a wrong decoding."),
    "duplicate_problem": ("rows_differ", _WARNING, "No record is duplicated."),
}


def _suite(e: Any, table: pd.DataFrame) -> list[Any]:
    suite = [e.ExpectTableRowCountToBeBetween(min_value=1, meta={"name": "not_empty"}, severity=_CRITICAL)]
    for column, (name, severity, notes) in _EXPECTATIONS.items():
        if column in table:
            suite.append(
                e.ExpectColumnValuesToBeNull(column=column, meta={"name": name}, notes=notes, severity=severity)
            )
    return suite


_WARNINGS = {name for name, severity, _ in _EXPECTATIONS.values() if severity == _WARNING}
