"""Validation of a list in parts, with findings on the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from albef.validation.gx_runner import REPORT_EXAMPLES, Finding, GxRunner


class PartedList:
    """Validation of one list."""

    def __init__(self, runner: GxRunner, name: str, expectations: Sequence[Any]) -> None:
        self._runner, self._name, self._expectations = runner, name, list(expectations)
        self._findings: list[Finding] = []

    def add(self, table: pd.DataFrame) -> list[Finding]:
        """Validate a part.

        Args:
            table: Table with a column ``row``, numbered over all parts.

        Returns:
            The findings on this part, with all its bad rows.
        """
        found = self._runner.validate(self._name, self._expectations, table)
        earlier = [[finding] for finding in self._findings] or [[] for _ in found]
        self._findings = [merge([*before, finding]) for before, finding in zip(earlier, found, strict=True)]
        return found

    def finish(self, expectations: Sequence[Any], sums: pd.DataFrame) -> list[Finding]:
        """Validate the sums over all parts.

        Args:
            expectations: Expectations on columns of ``sums``.

        Returns:
            The findings on the list. Those on rows have the values of the first bad rows only.
        """
        return self._runner.validate(self._name, expectations, sums) + self._findings


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
