"""HTML page of the expectations on all lists, readable without a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from albef import html
from albef.io import write_file
from albef.validation.gx_runner import Finding


def write(
    path: Path, title: str, rows: Mapping[str, int], findings: Sequence[Finding], warnings: Collection[str] = ()
) -> None:
    """Write the page; ``warnings`` are names of expectations that may fail."""
    lists = []
    for name, count in rows.items():
        own = [finding for finding in findings if finding.list == name]
        marks = {f.name: "met" if f.success else "warning" if f.name in warnings else "failed" for f in own}
        met = sum(finding.success for finding in own)
        lists.append({"name": name, "rows": count, "findings": own, "marks": marks, "met": met, "count": len(own)})
    path.parent.mkdir(parents=True, exist_ok=True)
    template = html.environment("albef.validation").get_template("validation.html")
    write_file(path, template.render(title=title, lists=lists))
