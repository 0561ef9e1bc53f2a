"""Validation of a list in parts, with findings and data docs of the whole.

Great Expectations judges one table at a time, and its docs have a page for each. A page for every part of a long list
would be many pages, none with the counts of the list. So parts are validated without docs, and their results are merged
into the one that the docs show.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from albef.validation.gx_runner import REPORT_EXAMPLES, RESULT_FORMAT, Finding, GxRunner, finding_of

_DOCS_EXAMPLES = 20


class PartedList:
    """Validation of one list.

    Args:
        runner: Where the result goes.
        name: Name of the list.
        expectations: Expectations on its rows.
    """

    def __init__(self, runner: GxRunner, name: str, expectations: Sequence[Any]) -> None:
        self._runner, self._name, self._expectations = runner, name, list(expectations)
        self._title = name.replace("/", "--")  # titles become file names
        self._batch = runner.source.add_dataframe_asset(self._title).add_batch_definition_whole_dataframe("whole")
        self._results: list[Any] = []
        self._findings: list[Finding] = []

    def add(self, table: pd.DataFrame) -> list[Finding]:
        """Validate a part.

        Args:
            table: Table with a column ``row``, numbered over all parts.

        Returns:
            The findings on this part, with all its bad rows.
        """
        results = self._validate(self._expectations, table).results
        found = [finding_of(self._name, result) for result in results]
        for number, (result, finding) in enumerate(zip(results, found, strict=True)):
            if len(self._results) < len(results):
                self._results.append(_shortened(result))
                self._findings.append(merge([finding]))
            else:
                _extend(self._results[number], result)
                self._findings[number] = merge([self._findings[number], finding])
        return found

    def finish(self, expectations: Sequence[Any], sums: pd.DataFrame) -> list[Finding]:
        """Validate the sums over all parts, and store the result of the list for the docs.

        Args:
            expectations: Expectations on columns of ``sums``.

        Returns:
            The findings on the list. Those on rows have the values of the first bad rows only.
        """
        outcome = self._validate(expectations, sums)
        findings = [finding_of(self._name, result) for result in outcome.results] + self._findings
        self._store(outcome, [*outcome.results, *self._results], [*expectations, *self._expectations])
        return findings

    def _validate(self, expectations: Sequence[Any], table: pd.DataFrame) -> Any:
        suite = self._runner.gx.ExpectationSuite(name=self._title, expectations=list(expectations))
        return self._batch.get_batch({"dataframe": table}).validate(suite, result_format=RESULT_FORMAT)

    def _store(self, outcome: Any, results: list[Any], expectations: list[Any]) -> None:
        from great_expectations.core.run_identifier import RunIdentifier
        from great_expectations.data_context.types import resource_identifiers as keys

        context = self._runner.context
        context.suites.add(self._runner.gx.ExpectationSuite(name=self._title, expectations=expectations))
        good, run = sum(bool(result.success) for result in results), RunIdentifier(run_time=datetime.now(UTC))
        outcome.results, outcome.success = results, good == len(results)
        outcome.statistics = {
            "evaluated_expectations": len(results),
            "successful_expectations": good,
            "unsuccessful_expectations": len(results) - good,
            "success_percent": 100 * good / len(results),
        }
        outcome.meta |= {"run_id": run, "validation_time": run.run_time}
        key = keys.ValidationResultIdentifier(keys.ExpectationSuiteIdentifier(self._title), run, f"lists-{self._title}")
        context.validation_results_store.set(key, outcome)


def merge(findings: Sequence[Finding]) -> Finding:
    """Merge the findings of one expectation on successive parts.

    Values are kept of the first bad rows only.
    """
    first = next((f for f in findings if not isinstance(f.observed, dict)), findings[0])  # could not be computed
    bad = [item for finding in findings for item in finding.bad.items()][:REPORT_EXAMPLES]
    rows = np.concatenate([finding.rows for finding in findings])
    observed = {"unexpected": len(rows)} if isinstance(first.observed, dict) else first.observed
    success = all(finding.success for finding in findings)
    return dataclasses.replace(first, success=success, observed=observed, bad=dict(bad), rows=rows)


def _shortened(result: Any) -> Any:
    """Drop the values of all but the first bad rows from a result of Great Expectations."""
    for key in ("unexpected_list", "unexpected_index_list", "unexpected_index_query"):
        result.result.pop(key, None)
    return result


def _extend(total: Any, part: Any) -> None:
    """Add the result of another part, which Great Expectations shows in its docs."""
    total.success = total.success and part.success
    if not total.result or not part.result:  # could not be computed
        total.exception_info = total.exception_info if not total.result else part.exception_info
        total.result = {}
        return
    sums, more = total.result, part.result
    for key in ("element_count", "unexpected_count", "missing_count"):
        if key in sums:
            sums[key] += more[key]
    for key in ("partial_unexpected_list", "partial_unexpected_index_list"):
        if key in sums or key in more:
            sums[key] = [*sums.get(key, []), *more.get(key, [])][:_DOCS_EXAMPLES]
    values: Counter[Any] = Counter()
    for counted in (*sums.get("partial_unexpected_counts", []), *more.get("partial_unexpected_counts", [])):
        values[counted["value"]] += counted["count"]
    common = values.most_common(_DOCS_EXAMPLES)
    sums["partial_unexpected_counts"] = [{"value": value, "count": count} for value, count in common]
    present = sums["element_count"] - sums.get("missing_count", 0)
    sums["unexpected_percent"] = _percent(sums["unexpected_count"], present)
    if "missing_count" in sums:
        sums["missing_percent"] = _percent(sums["missing_count"], sums["element_count"])
        sums["unexpected_percent_total"] = _percent(sums["unexpected_count"], sums["element_count"])
        sums["unexpected_percent_nonmissing"] = sums["unexpected_percent"]


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None
