"""The `validate` stage: passes on only records that meet all expectations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from albef.config import ValidateConfig
from albef.data.files import new_folder, write_list
from albef.data.lists import Images, file_of, names_in
from albef.data.schema import EXTRAS, SchemaError, images_of, known_lists, load_rows
from albef.data.tables import SUFFIX, RecordTable, write_records
from albef.io import write_file
from albef.validation import image_stats
from albef.validation.caption_filter import KINDS, CaptionFilter
from albef.validation.features import ValidationContext, check_records, feature_table
from albef.validation.gx_runner import Finding, GxRunner, fatal, format_failures
from albef.validation.suites import expectations

Row = tuple[Any, Sequence[int], str | None]
"""A record, the rows of its images in the tables, and its source."""


class ValidationError(ValueError):
    """A failed expectation, named with its list, rows and examples."""


def run(config: ValidateConfig, data: Path, out: Path) -> None:
    """Validate every list and write the clean lists.

    Args:
        data: Output folder of `albef prepare`.
        out: Folder to write: ``report.json``, ``docs/`` (HTML), ``quarantine.json`` and, unless the data is rejected,
            the clean ``lists/``.

    Raises:
        ValidationError: If an expectation fails and its records are not (or cannot be) quarantined. The report and the
            docs are still written.
        SchemaError: If a file is not a JSON list.
    """
    names = names_in(data)
    if not names:
        raise ValidationError(f"{data}: no list, expected files such as pretrain{SUFFIX}, written by `albef prepare`")
    captions = None if config.captions is None else CaptionFilter(config.captions)
    rows = {name: _rows(file_of(data, name)) for name in names}
    records = {name: [record for record, *_ in given] for name, given in rows.items()}
    extras = {name: _extra(data / f"{name}.json") for name in EXTRAS if (data / f"{name}.json").is_file()}
    checked = {name: check_records(records[name], known_lists()[name]) for name in names}
    lists = {name: records for name, (records, _) in checked.items()}
    paths = (path for records in lists.values() for record in records if record for path in images_of(record))
    images = image_stats.collect(paths, Images(data))
    answers = frozenset(map(str, extras["answer_list"])) if "answer_list" in extras else None
    context = ValidationContext(lists, images, answers, extras.get("grounding_boxes"))
    with new_folder(out) as folder:
        runner = GxRunner(folder / "docs")
        findings = []
        for name in tqdm(names, desc="validate", unit="list", disable=None):
            table = feature_table(name, known_lists()[name], checked[name][1], context)
            suite = expectations(runner.gx.expectations, config, known_lists()[name], table)
            findings += runner.validate(name, suite, table)
        runner.write_docs()
        quarantine = _bad_rows(findings, names)
        failures = [f for name in names for f in fatal(config, {name: len(rows[name])}, findings)]
        _write(folder, rows, quarantine, extras, findings, failures, captions)
    if failures:
        raise ValidationError(format_failures(failures, out))


def _rows(path: Path) -> list[Row]:
    if path.suffix != SUFFIX:
        return [(record, (), None) for record in load_rows(path)]
    table = RecordTable(path)
    names, numbers = table.sources()
    return list(zip(table, table.image_rows(), (names[number] or None for number in numbers), strict=True))


def _extra(path: Path) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SchemaError(f"{path}: not a readable JSON file ({error})") from error
    if path.stem == "answer_list" and not (
        isinstance(value, list) and value and all(isinstance(v, str) for v in value)
    ):
        raise SchemaError(f"{path}: expected a non-empty JSON list of strings, the answer candidates")
    if path.stem == "grounding_boxes" and not (
        isinstance(value, dict) and all(isinstance(value.get(key), dict) for key in ("refs", "proposals"))
    ):
        raise SchemaError(f"{path}: expected a JSON object with the objects refs and proposals")
    return value


def _bad_rows(findings: list[Finding], names: list[str]) -> dict[str, dict[int, str]]:
    """Return failing rows by list, each with its first reason."""
    bad: dict[str, dict[int, str]] = {name: {} for name in names}
    for finding in findings:
        for row, value in finding.bad.items():
            bad[finding.list].setdefault(row, f"{finding.name}: {value}")
    return {name: dict(sorted(reasons.items())) for name, reasons in bad.items()}


def _write(
    out: Path,
    rows: dict[str, list[Row]],
    bad: dict[str, dict[int, str]],
    extras: dict[str, Any],
    findings: list[Finding],
    failures: list[Finding],
    captions: CaptionFilter | None,
) -> None:
    good: dict[str, Iterable[Row]] = {}
    filtered: dict[str, Any] = {}
    for name in rows if not failures else ():
        good[name] = passed = [row for number, row in enumerate(rows[name]) if number not in bad[name]]
        if captions is not None and known_lists()[name] in KINDS:
            good[name], filtered[name] = captions.apply(passed)
    for name, value in extras.items() if not failures else ():
        write_list(out / "lists" / f"{name}.json", value)
    sources = {name: _write_rows(out / "lists" / f"{name}{SUFFIX}", kept) for name, kept in good.items()}
    report = {
        "success": not failures,
        "lists": {name: {"rows": len(rows[name]), "bad": len(bad[name])} for name in rows},
        "sources": {name: counts for name, counts in sources.items() if counts},
        "captions": filtered,
        "expectations": [f.report() for f in findings],
    }
    write_file(out / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    records = [
        {"list": name, "row": row, "reason": reason, "record": rows[name][row][0]}
        for name, reasons in bad.items()
        for row, reason in reasons.items()
    ]
    write_list(out / "quarantine.json", records)


def _write_rows(path: Path, rows: Iterable[Row]) -> dict[str, int]:
    """Write a list and return the number of rows of each source, if it has any."""
    sources: Counter[str] = Counter()

    def counted() -> Iterator[Row]:
        for row in rows:
            if row[2] is not None:
                sources[row[2]] += 1
            yield row

    write_records(path, counted())
    return dict(sources)
