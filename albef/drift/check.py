"""Judges a sample of requests: has what is asked become something else than the model was trained for?"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef.config import DriftConfig
from albef.data.files import new_folder, write_text
from albef.drift import reference as references
from albef.drift.expectations import Check, checks, table
from albef.drift.sample import Row, by_endpoint, read
from albef.validation.gx_runner import Finding, Inspector

DRIFTED = 3
"""Exit code of `albef drift`; 2 is bad input, as everywhere."""


@dataclass(frozen=True)
class Verdict:
    """What was found, as ``result.json`` has it."""

    result: dict[str, Any]

    @property
    def drifted(self) -> bool:
        """Whether an expectation failed."""
        return bool(self.result["verdict"] == "drifted")

    def text(self) -> str:
        """A line for each endpoint, and for each expectation that failed."""
        lines = []
        for name, endpoint in self.result["endpoints"].items():
            why = f": {endpoint['reason']}" if endpoint["reason"] else ""
            lines.append(f"{name}: {endpoint['rows']} questions, {endpoint['verdict']}{why}")
            failed = (e for e in self.result["expectations"] if e["endpoint"] == name and not e["success"])
            lines += [f"  {e['sentence']}" for e in failed]
        return "\n".join(lines) or "no question in the sample: no verdict"


def run(config: DriftConfig, sample: Path, reference: Path, out: Path) -> Verdict:
    """Compare the newest questions of a sample with a reference.

    Args:
        sample: Folder of `albef serve --sample-requests`.
        reference: File of `albef reference`.
        out: Folder to write: ``result.json`` and ``docs/`` (HTML).

    Raises:
        SampleError, BadReferenceError: If an input is missing or broken.
    """
    known, seen = references.load(reference), read(sample)
    asked = {name: rows[-config.window :] for name, rows in by_endpoint(seen.rows).items()}
    endpoints: dict[str, Any] = {}
    expectations: list[dict[str, Any]] = []
    with new_folder(out) as aside:
        inspector = Inspector(aside / "docs")
        for name, rows in asked.items():
            reason = _undecided(config, known, name, rows)
            found = [] if reason else _judge(config, inspector, name, known.endpoints[name], rows)
            failed = sum(not each["success"] for each in found)
            if not reason and not found:
                reason = f"no figure in {config.min_rows} questions that the reference has, too"
            verdict = "no verdict" if reason else "drifted" if failed else "as the reference"
            endpoints[name] = {"verdict": verdict, "reason": reason, **_described(rows)}
            expectations += found
        inspector.write_docs()
        verdicts = Counter(endpoint["verdict"] for endpoint in endpoints.values())
        order = ("drifted", "as the reference", "no verdict")
        result = {
            "verdict": next((verdict for verdict in order if verdicts[verdict]), "no verdict"),
            "endpoints": endpoints,
            "expectations": expectations,
            "broken_lines": seen.broken,
        }
        write_text(aside / "result.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
    return Verdict(result)


def _undecided(config: DriftConfig, known: references.Reference, name: str, rows: list[Row]) -> str:
    """Why there is no verdict on an endpoint; empty where there can be one."""
    if name not in known.endpoints:
        return "the reference does not have this endpoint"
    if len(rows) < config.min_rows:
        return f"too few, expected at least {config.min_rows}"
    return ""


def _described(rows: list[Row]) -> dict[str, Any]:
    versions = sorted({row["version"] for row in rows})
    return {"rows": len(rows), "versions": versions, "first": rows[0]["time"], "last": rows[-1]["time"]}


def _judge(
    config: DriftConfig, inspector: Inspector, name: str, known: references.Endpoint, rows: list[Row]
) -> list[dict[str, Any]]:
    every = checks(inspector.gx.expectations, config, known, rows)
    if not every:
        return []
    findings = inspector.judge(name, [check.expectation for check in every], table(known, rows))
    by_name = {check.name: check for check in every}
    return [_told(by_name[finding.name], finding) for finding in findings]


def _told(check: Check, finding: Finding) -> dict[str, Any]:
    value = finding.observed
    observed = f"{value:.4g}" if isinstance(value, int | float) else str(value)
    return {
        "endpoint": finding.list,
        "name": check.name,
        "success": finding.success,
        "observed": value,
        "expected": check.expected,
        "sentence": f"{check.name}: {check.what} is {observed}, expected {check.expected}",
    }
