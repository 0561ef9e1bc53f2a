"""The `inspect` stage: validates raw lists as delivered, before any conversion.

Findings refer to files and rows of the raw data. The `validate` stage after `prepare` checks the converted lists, and
everything that takes more than a single file and its image paths.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from albef.config import ListsConfig, PairsConfig, PrepareConfig, ValidateConfig
from albef.data.files import new_folder
from albef.data.schema import images_of, known_lists, problems
from albef.data.shards import expand
from albef.datasets import official_lists, photo_folder, shards
from albef.datasets.emoji import lexicon
from albef.io import write_file
from albef.progress import Progress
from albef.validation import page
from albef.validation.columns import first_of_equal
from albef.validation.facts import RECORD_ROWS
from albef.validation.gx_runner import Finding, GxRunner, fatal, format_failures
from albef.validation.parted import PartedList

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
        runner = GxRunner()
        if config.source == "lists" and config.lists is not None:
            sizes, findings = _lists(runner, config.lists, raw)
        elif config.source == "stream" and config.pairs is not None:
            found = (shard for pattern in config.stream_sources() for shard in expand(pattern, raw))
            sizes, findings = {"pairs": dict.fromkeys(found, 0)}, []
        elif config.source == "pairs" and config.pairs is not None:
            sizes, findings = _pairs(runner, config.pairs, raw)
        else:
            sizes, findings = _sprites(runner, raw)
        failures = [f for rows in sizes.values() for f in fatal(gate, rows, findings, _WARNINGS)]
        rows = {file: count for counts in sizes.values() for file, count in counts.items()}
        page.write(folder / "docs" / "index.html", "Raw data", rows, findings, _WARNINGS)
        files = {file: {"list": name, "rows": rows} for name, counts in sizes.items() for file, rows in counts.items()}
        report = {"success": not failures, "files": files, "expectations": [finding.report() for finding in findings]}
        write_file(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if failures:
        raise RawError(format_failures(failures, out))


Sizes = dict[str, dict[str, int]]
"""Number of rows by list and file."""


def _lists(runner: GxRunner, config: ListsConfig, raw: Path) -> tuple[Sizes, list[Finding]]:
    root = raw / config.image_root
    official_lists.check(config, root)
    sizes: Sizes = {}
    findings: list[Finding] = []
    names = [name for name in config.files if name in known_lists()]
    all_files = [file for name in names for file in config.files[name]]
    for name in Progress(names, description="inspect", unit="lists"):
        for file in config.files[name]:
            label = file if all_files.count(file) == 1 else f"{name} of {file}"  # several lists may share a file
            read = partial(official_lists.rows_of, name, file, config, raw)
            sizes.setdefault(name, {})[label], found = _judge(runner, label, read, known_lists()[name], root)
            findings += found
    return sizes, findings


def _judge(
    runner: GxRunner, label: str, read: Callable[[], Iterable[Any]], kind: str, root: Path
) -> tuple[int, list[Finding]]:
    """Validate the rows of a file in parts, one in memory at a time.

    Args:
        label: Name of the file in the report.
        read: Returns the rows; it is called twice.

    Returns:
        The number of rows, and the findings.
    """
    expectations = runner.gx.expectations
    hashes = np.frombuffer(b"".join(map(_hash, read())), np.uint64).reshape(-1, 2)
    first, rows = first_of_equal(hashes), iter(read())
    parted = PartedList(runner, label, _suite(expectations, _EXPECTATIONS))
    exists = lru_cache(maxsize=RECORD_ROWS)(os.path.isfile)  # captions of an image are often close together
    for start in range(0, max(len(hashes), 1), RECORD_ROWS):
        parted.add(_table(list(islice(rows, RECORD_ROWS)), kind, root, exists, start, first))
    return len(hashes), parted.finish(_sums_suite(expectations), pd.DataFrame({"rows": [len(hashes)]}))


def _pairs(runner: GxRunner, config: PairsConfig, raw: Path) -> tuple[Sizes, list[Finding]]:
    """Check the captions of a folder of images.

    Shards are only looked up: `albef prepare` reads them, once.
    """
    if config.path.startswith(shards.HUB) or shards.files(config.path, raw) is not None:
        return {}, []
    folder = raw / config.path
    rows = list(photo_folder.rows(folder, config.image, config.caption))
    label = (photo_folder.table(folder) or folder).name
    read = partial(iter, rows)
    size, findings = _judge(runner, label, read, "pretrain", folder)
    return {"pairs": {label: size}}, findings


def _table(
    rows: Sequence[Any],
    kind: str,
    root: Path,
    exists: Callable[[Path], bool],
    start: int,
    first: NDArray[np.int64],
) -> pd.DataFrame:
    """Return the table of a part of a file.

    Args:
        exists: Returns whether there is an image.
        start: Number of the first row.
        first: First row with the same content, for all rows of the file.
    """
    found = [problems(row, kind) for row in rows]
    valid = [None if errors else row for row, errors in zip(rows, found, strict=True)]
    columns = {
        "schema_problem": [errors[0] if errors else None for errors in found],
        "image_problem": [None if row is None else _missing_image(images_of(row), root, exists) for row in valid],
        "text_problem": [None if row is None else _damaged_text(row) for row in valid],
        "duplicate_problem": [
            None if row is None or earlier == number else f"the same as row {earlier}"
            for number, (row, earlier) in enumerate(zip(valid, first[start : start + len(rows)], strict=True), start)
        ],
    }
    return _to_frame(columns, start, len(rows))


def _hash(row: Any) -> bytes:
    return hashlib.blake2b(json.dumps(row, sort_keys=True).encode(), digest_size=16).digest()


def _missing_image(images: Sequence[str], root: Path, exists: Callable[[Path], bool]) -> str | None:
    """Return a message for the first missing image of a record."""
    return next((f"{image}: no such file below {root}" for image in images if not exists(root / image)), None)


def _damaged_text(record: dict[str, Any]) -> str | None:
    """Return a message for the first damaged text of a record."""
    for key, value in record.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (match := _DAMAGED_TEXT.search(text)):
                return f"{key}: {match.group()!r} in {text[:60]!r}"
    return None


def _sprites(runner: GxRunner, raw: Path) -> tuple[Sizes, list[Finding]]:
    expectations, entries = runner.gx.expectations, lexicon.entries(raw)
    parted = PartedList(runner, SPRITES, _suite(expectations, ["schema_problem"]))
    parted.add(_to_frame({"schema_problem": lexicon.problems(raw, entries)}, 0, len(entries)))
    findings = parted.finish(_sums_suite(expectations), pd.DataFrame({"rows": [len(entries)]}))
    return {SPRITES: {SPRITES: len(entries)}}, findings


def _to_frame(columns: dict[str, list[str | None]], start: int, rows: int) -> pd.DataFrame:
    table = {name: pd.Series(values, dtype="object") for name, values in columns.items()}
    return pd.DataFrame({"row": pd.Series(range(start, start + rows), dtype="int64"), **table})


# By column: name, severity and notes of the expectation that it is empty.
_EXPECTATIONS = {
    "schema_problem": ("schema", _CRITICAL, "Every record has the fields of its format."),
    "image_problem": ("images_exist", _CRITICAL, "Every image file exists."),
    "text_problem": ("texts_undamaged", _WARNING, "No text has characters of a wrong decoding."),
    "duplicate_problem": ("rows_differ", _WARNING, "No record is duplicated."),
}


def _suite(e: Any, columns: Iterable[str]) -> list[Any]:
    suite = []
    for column in columns:
        name, severity, notes = _EXPECTATIONS[column]
        suite.append(e.ExpectColumnValuesToBeNull(column=column, meta={"name": name}, notes=notes, severity=severity))
    return suite


def _sums_suite(e: Any) -> list[Any]:
    options = {"meta": {"name": "not_empty"}, "notes": "The file has records.", "severity": _CRITICAL}
    return [e.ExpectColumnMinToBeBetween(column="rows", min_value=1, **options)]


_WARNINGS = {name for name, severity, _ in _EXPECTATIONS.values() if severity == _WARNING}
