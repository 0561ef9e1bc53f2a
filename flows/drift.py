"""Flow ``drift``: what was asked lately, against what the models were trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_table_artifact

from flows import _dvc

_DRIFTED = 3  # exit code of `albef drift`


class DriftError(RuntimeError):
    """Requests are no longer what the models were trained on."""


@flow(name="drift")
def drift(
    sample: str = "scratch/requests", reference: str = "artifacts/reference.json", out: str = "scratch/drift"
) -> str:
    """Compare served requests with a reference; paths start from the checkout.

    Args:
        sample: Folder of ``albef serve --sample-requests``.
        reference: File of ``albef reference``, such as the stage of that name writes.
        out: Folder for the result and its data docs.

    Returns:
        The verdict: as the reference, or none, where too little was asked.

    Raises:
        DriftError: If they differ; data docs and table tell how.
        StageError: If an input is missing or broken.
    """
    drifted, said = None, ""
    try:
        said = _dvc.albef("drift", "drift", "--sample", sample, "--reference", reference, "--out", out)
    except _dvc.StageError as error:
        if error.code != _DRIFTED:
            raise
        drifted = error
    result = json.loads((_dvc.ROOT / out / "result.json").read_text(encoding="utf-8"))
    _publish(result, _dvc.ROOT / out)
    if drifted is not None:
        raise DriftError(str(drifted))
    for line in said.splitlines():
        get_run_logger().info(line)
    return str(result["verdict"])


def _publish(result: dict[str, Any], folder: Path) -> None:
    rows = [
        {key: each[key] for key in ("endpoint", "name", "success", "observed", "expected")}
        for each in sorted(result["expectations"], key=lambda each: each["success"])
    ]
    undecided = [
        {"endpoint": name, "name": "-", "success": None, "observed": found["rows"], "expected": found["reason"]}
        for name, found in result["endpoints"].items()
        if found["reason"]
    ]
    create_table_artifact(
        key="drift",
        table=rows + undecided or [{"endpoint": "-", "name": "no question in the sample"}],
        description=f"Served requests: {result['verdict']}",
    )
    page = folder / "docs" / "index.html"
    create_link_artifact(key="drift-docs", link=page.as_uri(), description="Data docs of served requests")
