"""Great Expectations runner: validates tables."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from albef.config import ValidateConfig

_RESULT_FORMAT = {"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]}
REPORT_EXAMPLES = 5
_MESSAGE_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """Result of one expectation on one list.

    Args:
        observed: Value that was compared; for expectations on rows, the number of failing rows.
        bad: Values of failing rows: all of them, or the first ones if several parts were merged.
        rows: All failing rows.
        notes: The rule in words.
    """

    name: str
    list: str
    success: bool
    observed: Any
    bad: dict[int, str] = field(default_factory=dict)
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    notes: str = ""

    def report(self) -> dict[str, Any]:
        """Return the finding as stored in ``report.json``."""
        examples = [{"row": row, "value": value} for row, value in self.examples()]
        return {
            "name": self.name,
            "list": self.list,
            "success": self.success,
            "observed": self.observed,
            "examples": examples,
        }

    def examples(self) -> Sequence[tuple[int, str]]:
        """Return the first failing rows with their values."""
        return list(self.bad.items())[:REPORT_EXAMPLES]


def format_failures(
    failures: Sequence[Finding], out: Path, addition: Callable[[str, int], str] = lambda name, row: ""
) -> str:
    """Format failed expectations as an error message.

    The first one is described with its list, rows and values, the others by name.

    Args:
        addition: Returns an addition to the number of a row of a list, such as its image.
    """
    first = failures[0]
    examples = "; ".join(
        f"row {row}{addition(first.list, row)}: {value}" for row, value in first.examples()[:_MESSAGE_EXAMPLES]
    )
    detail = f"{len(first.rows)} bad rows, such as {examples}" if first.bad else f"observed {first.observed}"
    others = ", ".join(f"{f.name} ({f.list})" for f in failures[1:6])
    more = f"; also failed: {others}{', ...' if len(failures) > 6 else ''}" if others else ""
    rule = f" ({first.notes})" if first.notes else ""
    return f"{first.list}: expectation {first.name!r}{rule} failed, {detail}{more}. See {out / 'docs' / 'index.html'}"


def fatal(
    policy: ValidateConfig, rows: Mapping[str, int], findings: Sequence[Finding], ignored: Collection[str] = ()
) -> list[Finding]:
    """Return the failed expectations on a list that stop the pipeline.

    Args:
        rows: Number of rows of the files of the list.
        findings: Findings on all files; those on other files are skipped.
        ignored: Names of expectations that may fail.
    """
    failed = [f for f in findings if f.list in rows and not f.success and f.name not in ignored]
    by_list = [[f.rows for f in failed if f.list == name] for name in rows]
    bad = sum(len(np.unique(np.concatenate(found))) for found in by_list if found)
    exceeded = bad > policy.max_bad_share * sum(rows.values()) or policy.on_bad_record == "refuse"
    return [finding for finding in failed if exceeded or not finding.bad]


class GxRunner:
    """Great Expectations context that validates tables."""

    def __init__(self) -> None:
        # Set before the import, which starts the telemetry client.
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
        import great_expectations as gx

        # This module sets its level on import and logs a temporary folder that is of no use.
        logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
        self.gx = gx
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("lists").add_dataframe_asset("list")
        self.whole = asset.add_batch_definition_whole_dataframe("whole")

    def validate(self, name: str, expectations: Sequence[Any], table: pd.DataFrame) -> list[Finding]:
        """Validate a table of list ``name``.

        Args:
            expectations: Expectations with their names in ``meta``.
            table: Table with a column ``row``.
        """
        suite = self.gx.ExpectationSuite(name="suite", expectations=list(expectations))
        outcome = self.whole.get_batch({"dataframe": table}).validate(suite, result_format=_RESULT_FORMAT)
        return [finding_of(name, result) for result in outcome.results]


def finding_of(name: str, result: Any) -> Finding:
    """Return the finding on list ``name`` of a result of Great Expectations, in the format COMPLETE."""
    expectation, details = result.expectation_config, result.result
    title, notes = expectation.meta["name"], str(expectation.notes or "")
    if result.exception_info and any(
        info.get("raised_exception") for info in _infos(result.exception_info) if isinstance(info, dict)
    ):
        text = f"the expectation could not be computed: {result.exception_info}"
        return Finding(title, name, False, text, notes=notes)
    if "observed_value" in details:
        return Finding(title, name, bool(result.success), _plain(details["observed_value"]), notes=notes)
    column = expectation.kwargs["column"]
    bad = {int(i["row"]): _plain(i[column]) for i in details.get("unexpected_index_list") or []}
    values = {row: str(value) for row, value in sorted(bad.items())}
    rows = np.fromiter(values, np.int64, len(values))
    return Finding(title, name, bool(result.success), {"unexpected": len(bad)}, values, rows, notes)


def _infos(info: dict[str, Any]) -> list[Any]:
    # Either a single record or one record per metric.
    return [info] if "raised_exception" in info else list(info.values())


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
