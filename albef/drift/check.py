"""Drift check: compares a sample of requests with a reference."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef.config import DriftConfig
from albef.data.files import new_folder
from albef.drift import reference as references
from albef.drift.expectations import Check, checks, feature_table
from albef.drift.sample import Row, by_endpoint, read
from albef.io import write_file
from albef.validation import page
from albef.validation.gx_runner import Finding, GxRunner

DRIFTED = 3
"""Exit code of `albef drift` on drift; 2 means bad input, as in all commands."""


@dataclass(frozen=True)
class Verdict:
    """Result of a drift check, as written to ``result.json``."""

    result: dict[str, Any]

    @property
    def drifted(self) -> bool:
        """True if an expectation failed."""
        return bool(self.result["verdict"] == "drifted")

    def text(self) -> str:
        """Return a line for each endpoint and for each failed expectation."""
        lines = []
        for name, endpoint in self.result["endpoints"].items():
            reason = f": {endpoint['reason']}" if endpoint["reason"] else ""
            lines.append(f"{name}: {endpoint['rows']} questions, {endpoint['verdict']}{reason}")
            failed = (e for e in self.result["expectations"] if e["endpoint"] == name and not e["success"])
            lines += [f"  {e['sentence']}" for e in failed]
        return "\n".join(lines) or "no question in the sample: no verdict"


def run(config: DriftConfig, sample: Path, reference: Path, out: Path) -> Verdict:
    """Compare the newest rows of a sample with a reference.

    Args:
        sample: Output folder of `albef serve --sample-requests`.
        reference: Output file of `albef reference`.
        out: Folder to write: ``result.json`` and ``docs/index.html``.

    Raises:
        SampleError, BadReferenceError: If an input is missing or malformed.
    """
    known, sampled = references.load(reference), read(sample)
    requests = {name: rows[-config.window :] for name, rows in by_endpoint(sampled.rows).items()}
    endpoints: dict[str, Any] = {}
    expectations: list[dict[str, Any]] = []
    with new_folder(out) as folder:
        runner = GxRunner()
        findings: list[Finding] = []
        for name, rows in requests.items():
            reason = _no_verdict_reason(config, known, name, rows)
            suite = [] if reason else checks(runner.gx.expectations, config, known.endpoints[name], rows)
            table = feature_table(known.endpoints[name], rows) if suite else None
            found = runner.validate(name, [check.expectation for check in suite], table) if suite else []
            findings += found
            by_name = {check.name: check for check in suite}
            results = [_result(by_name[finding.name], finding) for finding in found]
            failed = sum(not result["success"] for result in results)
            if not reason and not results:
                reason = f"no statistic of the reference is in {config.min_rows} questions"
            verdict = "no verdict" if reason else "drifted" if failed else "as the reference"
            endpoints[name] = {"verdict": verdict, "reason": reason, **_summary(rows)}
            expectations += results
        page.write(
            folder / "docs" / "index.html", "Drift", {name: len(rows) for name, rows in requests.items()}, findings
        )
        verdicts = Counter(endpoint["verdict"] for endpoint in endpoints.values())
        order = ("drifted", "as the reference", "no verdict")
        result = {
            "verdict": next((verdict for verdict in order if verdicts[verdict]), "no verdict"),
            "endpoints": endpoints,
            "expectations": expectations,
            "broken_lines": sampled.malformed,
        }
        write_file(folder / "result.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
    return Verdict(result)


def _no_verdict_reason(config: DriftConfig, known: references.Reference, name: str, rows: list[Row]) -> str:
    """Return the reason why an endpoint cannot be checked.

    The result is an empty string if it can.
    """
    if name not in known.endpoints:
        return "the reference does not have this endpoint"
    if len(rows) < config.min_rows:
        return f"too few, expected at least {config.min_rows}"
    return ""


def _summary(rows: list[Row]) -> dict[str, Any]:
    versions = sorted({row["version"] for row in rows})
    return {"rows": len(rows), "versions": versions, "first": rows[0]["time"], "last": rows[-1]["time"]}


def _result(check: Check, finding: Finding) -> dict[str, Any]:
    value = finding.observed
    observed = f"{value:.4g}" if isinstance(value, int | float) else str(value)
    return {
        "endpoint": finding.list,
        "name": check.name,
        "success": finding.success,
        "observed": value,
        "expected": check.expected,
        "sentence": f"{check.name}: {check.quantity} is {observed}, expected {check.expected}",
    }
