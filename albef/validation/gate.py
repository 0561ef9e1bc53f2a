"""The `validate` stage: passes on only records that meet all expectations."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from albef.config import ValidateConfig
from albef.data.files import dump, new_folder, write_list
from albef.data.lists import IMAGE_FOLDER, file_of, names_in
from albef.data.schema import EXTRAS, images_of, known_lists
from albef.data.tables import SUFFIX, RecordTable, write_records
from albef.io import write_file
from albef.progress import Progress
from albef.validation import page
from albef.validation.caption_filter import KINDS, CaptionFilter, Row
from albef.validation.facts import Facts
from albef.validation.features import Features
from albef.validation.gx_runner import Finding, GxRunner, fatal, format_failures
from albef.validation.images import ImageIndex
from albef.validation.leakage import Leaks
from albef.validation.parted import PartedList
from albef.validation.record_facts import extra
from albef.validation.suites import of_records, of_sums

_logger = logging.getLogger(__name__)


class ValidationError(ValueError):
    """A failed expectation, named with its list, rows and examples."""


def run(config: ValidateConfig, data: Path, out: Path, work_dir: Path = Path("scratch")) -> None:
    """Validate every list and write the clean lists.

    Args:
        data: Output folder of `albef prepare`.
        out: Folder to write: ``report.json``, the page ``docs/index.html``, ``quarantine.json`` and, unless the data is
            rejected, the clean ``lists/`` and ``facts/`` (Parquet).
        work_dir: Folder for facts of images and records until the data is accepted; an interrupted or failed run
            continues with them.

    Raises:
        ValidationError: If an expectation fails and its records are not (or cannot be) quarantined. The report and the
            docs are still written.
        SchemaError: If a file is not in the format that `albef prepare` writes.
        TableError: If a table cannot be read.
    """
    names = names_in(data)
    if not names:
        raise ValidationError(f"{data}: no list, expected files such as pretrain{SUFFIX}, written by `albef prepare`")
    captions = None if config.captions is None else CaptionFilter(config.captions)
    extras = {name: value for name in EXTRAS if (value := extra(data, name)) is not None}
    facts = Facts(data, work_dir)
    facts.compute()
    images = ImageIndex(facts.parts[IMAGE_FOLDER])
    leaks = Leaks({name: facts.parts[name] for name in names}, images, config.max_hash_distance)
    with new_folder(out) as folder:
        runner = GxRunner()
        findings: list[Finding] = []
        good: dict[str, NDArray[np.bool_]] = {}
        with Quarantine(folder / "quarantine.json") as quarantine:
            for name in Progress(names, description="validate", unit="lists"):
                records = RecordTable(file_of(data, name))
                boxes = "grounding_boxes" in extras
                features = Features(facts.parts[name], records, images, leaks.of(name), boxes)
                found, good[name] = _judge(runner, config, name, features, records, quarantine)
                findings += found
        failures = [f for name in names for f in fatal(config, {name: len(good[name])}, findings)]
        summary: dict[str, Any] = {"sources": {}, "captions": {}}
        if not failures:
            for name, value in extras.items():
                write_list(folder / "lists" / f"{name}.json", value)
            summary = _write_lists(data, folder / "lists", good, captions)
            facts.move(folder / "facts")
        _report(folder / "report.json", good, summary, findings, failures)
        page.write(folder / "docs" / "index.html", "Validation", {name: len(good[name]) for name in names}, findings)
    if failures:
        text = format_failures(failures, out, partial(_image, data))
        if failures[0].bad:
            text += f". {_advice(config)}"
        raise ValidationError(text)
    bad = {name: int((~rows).sum()) for name, rows in good.items()}
    if any(bad.values()):
        counts = ", ".join(f"{count} of {len(good[name])} in {name}" for name, count in bad.items() if count)
        _logger.warning("bad records are left out: %s; reasons in %s", counts, out / "quarantine.json")


def _image(data: Path, name: str, row: int) -> str:
    """Return the first image of a record in parentheses; empty if it is malformed."""
    try:
        return f" ({images_of(RecordTable(file_of(data, name))[row])[0]})"
    except (KeyError, IndexError, TypeError):
        return ""


def _advice(config: ValidateConfig) -> str:
    if config.on_bad_record == "refuse":
        return "Mend the data, or set validate.on_bad_record to quarantine, which leaves out bad records"
    return (
        f"These are more than validate.max_bad_share = {config.max_bad_share} of the list; mend it, or raise the limit"
    )


def _judge(
    runner: GxRunner,
    config: ValidateConfig,
    name: str,
    features: Features,
    records: RecordTable,
    quarantine: Quarantine,
) -> tuple[list[Finding], NDArray[np.bool_]]:
    """Validate a list part by part.

    Returns:
        The findings on the list, and which of its records are good.
    """
    expectations = runner.gx.expectations
    good = np.ones(len(records), bool)
    parted = PartedList(runner, name, of_records(expectations, config, features.kind, features.columns))
    for table in features:
        bad = _reasons(parted.add(table))
        good[list(bad)] = False
        quarantine.add(name, bad, records)
    sums = features.sums()
    return parted.finish(of_sums(expectations, config, sums.columns), sums), good


def _reasons(findings: Iterable[Finding]) -> dict[int, str]:
    """Return failing rows in ascending order, each with its first reason."""
    bad: dict[int, str] = {}
    for finding in findings:
        for row, value in finding.bad.items():
            bad.setdefault(row, f"{finding.name}: {value}")
    return dict(sorted(bad.items()))


class Quarantine(AbstractContextManager["Quarantine"]):
    """JSON list of bad records with their reasons, written one by one."""

    def __init__(self, path: Path) -> None:
        self._file, self._empty = path.open("w", encoding="utf-8"), True
        self._file.write("[\n")

    def add(self, name: str, bad: dict[int, str], records: RecordTable) -> None:
        """Add the bad rows of a list."""
        for row, reason in bad.items():
            entry = {"list": name, "row": row, "reason": reason, "record": records[row]}
            self._file.write(("" if self._empty else ",\n") + dump(entry))
            self._empty = False

    def __exit__(self, *error: object) -> None:
        self._file.write("\n]\n")
        self._file.close()


def _report(
    path: Path,
    good: dict[str, NDArray[np.bool_]],
    summary: dict[str, Any],
    findings: list[Finding],
    failures: list[Finding],
) -> None:
    report = {
        "success": not failures,
        "lists": {name: {"rows": len(rows), "bad": int((~rows).sum())} for name, rows in good.items()},
        **summary,
        "expectations": [f.report() for f in findings],
    }
    write_file(path, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def _write_lists(
    data: Path, out: Path, good: Mapping[str, NDArray[np.bool_]], captions: CaptionFilter | None
) -> dict[str, Any]:
    """Write the good rows of all lists.

    Returns:
        Rows by source of lists that have several, and the counts of filtered captions.
    """
    summary: dict[str, Any] = {"sources": {}, "captions": {}}
    for name, rows in good.items():
        given, target = file_of(data, name), out / f"{name}{SUFFIX}"
        if captions is None or known_lists()[name] not in KINDS:
            _write_clean(given, target, rows)
        else:
            kept, summary["captions"][name] = captions.apply(_Good(RecordTable(given), rows))
            write_records(target, kept)
        if counts := _sources(target):
            summary["sources"][name] = counts
    return summary


def _write_clean(source: Path, target: Path, good: NDArray[np.bool_]) -> None:
    """Write the good rows of a table of records, all columns as they are."""
    import pyarrow as pa

    def write(file: Any) -> None:
        with (
            pa.memory_map(str(source)) as mapped,
            pa.ipc.open_stream(mapped) as table,
            pa.ipc.new_stream(file, table.schema) as writer,
        ):
            for batch, rows in _aligned(table, good):
                writer.write_batch(batch if rows.all() else batch.filter(pa.array(rows)))

    write_file(target, write)


def _aligned(batches: Iterable[Any], rows: NDArray[np.bool_]) -> Iterator[tuple[Any, NDArray[np.bool_]]]:
    start = 0
    for batch in batches:
        yield batch, rows[start : start + len(batch)]
        start += len(batch)


class _Good(Iterable[Row]):
    """Good rows of a table, read each time they are iterated."""

    def __init__(self, table: RecordTable, good: NDArray[np.bool_]) -> None:
        self.table, self.good = table, good

    def __iter__(self) -> Iterator[Row]:
        names, numbers = self.table.sources()
        rows = zip(self.table, self.table.image_rows(), (names[number] or None for number in numbers), strict=True)
        return compress(rows, self.good)


def _sources(path: Path) -> dict[str, int]:
    """Return the number of rows of each source of a list, if it has any."""
    names, numbers = RecordTable(path).sources()
    counts = np.bincount(numbers, minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True) if name}
