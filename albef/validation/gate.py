"""The `validate` stage: nothing behind it sees a record that broke an expectation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from albef.config import ValidateConfig
from albef.data.files import image_root, new_folder, write_list, write_text
from albef.data.schema import EXTRAS, LISTS, SchemaError, images_of, load_rows
from albef.validation.features import Bench, frame, sound
from albef.validation.gx_runner import Finding, Inspector, told
from albef.validation.image_stats import inspect
from albef.validation.suites import expectations


class ValidationError(ValueError):
    """The data broke an expectation; the message names it with its list, rows and examples."""


def run(config: ValidateConfig, data: Path, out: Path) -> None:
    """Judge every list and hand on what is sound.

    Args:
        data: What `albef prepare` wrote.
        out: Folder to write: ``report.json``, ``docs/`` (HTML), ``quarantine.json`` and, unless the data is refused,
            the clean ``lists/``.

    Raises:
        ValidationError: If an expectation fails and its records are not (or may not be) quarantined. The report and
            the docs are written all the same.
        SchemaError: If a file is no JSON list.
    """
    names = [name for name in LISTS if (data / f"{name}.json").is_file()]
    if not names:
        raise ValidationError(f"{data}: no list, expected files such as pretrain.json as `albef prepare` writes them")
    rows = {name: load_rows(data / f"{name}.json") for name in names}
    extras = {name: _extra(data / f"{name}.json") for name in EXTRAS if (data / f"{name}.json").is_file()}
    judged = {name: sound(rows[name], LISTS[name]) for name in names}
    lists = {name: records for name, (records, _) in judged.items()}
    pictures = inspect((i for r in lists.values() for x in r if x is not None for i in images_of(x)), image_root(data))
    answers = frozenset(map(str, extras["answer_list"])) if "answer_list" in extras else None
    bench = Bench(lists, pictures, answers, extras.get("grounding_boxes"))
    with new_folder(out) as aside:
        inspector = Inspector(aside / "docs")
        findings = []
        for name in tqdm(names, desc="validate", unit="list", disable=None):
            table = frame(name, LISTS[name], judged[name][1], bench)
            suite = expectations(inspector.gx.expectations, config, LISTS[name], table)
            findings += inspector.judge(name, suite, table)
        inspector.write_docs()
        quarantine = _bad_rows(findings, rows)
        refused = _refused(config, findings, rows, quarantine)
        _write(aside, rows, quarantine, extras, findings, refused)
    if refused:
        raise ValidationError(told(refused, out))


def _extra(path: Path) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SchemaError(f"{path}: not a readable JSON file ({error})") from error
    if path.stem == "answer_list" and not (
        isinstance(value, list) and value and all(isinstance(v, str) for v in value)
    ):
        raise SchemaError(f"{path}: expected a JSON list of texts, the answer candidates")
    if path.stem == "grounding_boxes" and not (
        isinstance(value, dict) and all(isinstance(value.get(key), dict) for key in ("refs", "proposals"))
    ):
        raise SchemaError(f"{path}: expected a JSON object with the objects refs and proposals")
    return value


def _bad_rows(findings: list[Finding], rows: dict[str, list[Any]]) -> dict[str, dict[int, str]]:
    """By list, the rows that broke an expectation, with the first reason."""
    bad: dict[str, dict[int, str]] = {name: {} for name in rows}
    for finding in findings:
        for row, value in finding.bad.items():
            bad[finding.list].setdefault(row, f"{finding.name}: {value}")
    return {name: dict(sorted(found.items())) for name, found in bad.items()}


def _refused(
    config: ValidateConfig, findings: list[Finding], rows: dict[str, list[Any]], bad: dict[str, dict[int, str]]
) -> list[Finding]:
    """The failed expectations that stop the pipeline."""
    failed = [f for f in findings if not f.success]
    if config.on_bad_record == "refuse":
        return failed
    return [f for f in failed if not f.bad or len(bad[f.list]) > config.max_bad_share * len(rows[f.list])]


def _write(
    out: Path,
    rows: dict[str, list[Any]],
    bad: dict[str, dict[int, str]],
    extras: dict[str, Any],
    findings: list[Finding],
    refused: list[Finding],
) -> None:
    report = {
        "success": not refused,
        "lists": {name: {"rows": len(rows[name]), "bad": len(bad[name])} for name in rows},
        "expectations": [f.report() for f in findings],
    }
    write_text(out / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    records = [
        {"file": f"{name}.json", "row": row, "reason": reason, "record": rows[name][row]}
        for name, found in bad.items()
        for row, reason in found.items()
    ]
    write_list(out / "quarantine.json", records)
    if refused:
        return
    for name, value in extras.items():
        write_list(out / "lists" / f"{name}.json", value)
    for name, records in rows.items():
        write_list(out / "lists" / f"{name}.json", [r for i, r in enumerate(records) if i not in bad[name]])
