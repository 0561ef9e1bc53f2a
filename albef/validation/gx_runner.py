"""Great Expectations at work: tables are judged, and their findings collected in HTML data docs."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

_EXAMPLES = 5
_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """How one expectation went on one list.

    ``bad`` holds the offending rows with their values; an expectation on the whole list has none, ``observed`` tells.
    """

    name: str
    list: str
    success: bool
    observed: Any
    bad: dict[int, str] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """The plain-data form of the report."""
        examples = [{"row": row, "value": value} for row, value in list_head(self.bad)]
        return {
            "name": self.name,
            "list": self.list,
            "success": self.success,
            "observed": self.observed,
            "examples": examples,
        }


def list_head(bad: dict[int, str]) -> list[tuple[int, str]]:
    """The first few offending rows."""
    return list(bad.items())[:_EXAMPLES]


def told(refused: Sequence[Finding], out: Path) -> str:
    """Failed expectations in a sentence: the first with its list, rows and values, the others by name."""
    first = refused[0]
    shown = "; ".join(f"row {row}: {value}" for row, value in list_head(first.bad)[:_SHOWN])
    detail = f"{len(first.bad)} bad rows, such as {shown}" if first.bad else f"observed {first.observed}"
    others = ", ".join(f"{f.name} ({f.list})" for f in refused[1:6])
    more = f"; also failed: {others}{', ...' if len(refused) > 6 else ''}" if others else ""
    name = first.list if first.list.endswith(".json") else f"{first.list}.json"
    return f"{name}: expectation {first.name!r} failed, {detail}{more}. See {out / 'report.json'} and docs/"


class Inspector:
    """A Great Expectations context that judges tables and collects their data docs."""

    def __init__(self, docs: Path) -> None:
        # Before the import: the library starts its telemetry client with it.
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
        import great_expectations as gx

        # This module sets its own level on import, and tells of a temporary folder that it does not keep.
        logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
        self.gx = gx
        self.context = gx.get_context(mode="ephemeral")
        self.context.variables.progress_bars = {"globally": False}
        self.context.add_data_docs_site(
            site_name="docs",
            site_config={
                "class_name": "SiteBuilder",
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.absolute())},
            },
        )
        self.source = self.context.data_sources.add_pandas("lists")

    def judge(self, name: str, expectations: Sequence[Any], table: pd.DataFrame) -> list[Finding]:
        """Run expectations, named in their ``meta``, on the table of list ``name``, which has a column ``row``."""
        gx = self.gx
        title = name.replace("/", "--")  # pages are files
        suite = self.context.suites.add(gx.ExpectationSuite(name=title, expectations=list(expectations)))
        batch = self.source.add_dataframe_asset(title).add_batch_definition_whole_dataframe("whole")
        definition = self.context.validation_definitions.add(
            gx.ValidationDefinition(name=title, data=batch, suite=suite)
        )
        outcome = definition.run(
            batch_parameters={"dataframe": table},
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]},
        )
        return [_finding(name, result) for result in outcome.results]

    def write_docs(self) -> None:
        """Write the HTML of everything judged so far."""
        self.context.build_data_docs(site_names=["docs"])


def _finding(name: str, result: Any) -> Finding:
    expectation = result.expectation_config
    title, details = expectation.meta["name"], result.result
    if result.exception_info and any(
        info.get("raised_exception") for info in _infos(result.exception_info) if isinstance(info, dict)
    ):
        return Finding(title, name, False, f"the expectation could not be computed: {result.exception_info}")
    if "observed_value" in details:
        return Finding(title, name, bool(result.success), _plain(details["observed_value"]))
    column = expectation.kwargs["column"]
    bad = {int(i["row"]): _plain(i[column]) for i in details.get("unexpected_index_list") or []}
    return Finding(title, name, bool(result.success), {"unexpected": len(bad)}, {r: str(v) for r, v in bad.items()})


def _infos(info: dict[str, Any]) -> list[Any]:
    # Either one record, or one record a metric.
    return [info] if "raised_exception" in info else list(info.values())


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
