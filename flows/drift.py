"""Flow ``drift``: comparison of served requests with the training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_table_artifact

from flows import _dvc

_DRIFTED = 3  # exit code of `albef drift`


class DriftError(RuntimeError):
    """Served requests differ from the data that the models were trained on."""


@flow(name="drift")
def drift(
    sample: str = "scratch/requests", reference: str = "artifacts/reference.json", out: str = "scratch/drift"
) -> str:
    """Compare served requests with a reference; paths are relative to the checkout.

    Args:
        sample: Folder of ``albef serve --sample-requests``.
        reference: File written by ``albef reference``, as in the stage ``reference``.
        out: Folder for the result and its page of expectations.

    Returns:
        The verdict: ``as the reference``, or ``no verdict`` if there are too few requests.

    Raises:
        DriftError: If they differ; the published table and page show the details.
        StageError: If an input is missing or invalid.
    """
    drifted, output = None, ""
    try:
        output = _dvc.albef("drift", "drift", "--sample", sample, "--reference", reference, "--out", out)
    except _dvc.StageError as error:
        if error.code != _DRIFTED:
            raise
        drifted = error
    result = json.loads((_dvc.ROOT / out / "result.json").read_text(encoding="utf-8"))
    _publish(result, _dvc.ROOT / out)
    if drifted is not None:
        raise DriftError(str(drifted))
    for line in output.splitlines():
        get_run_logger().info(line)
    return str(result["verdict"])


def _publish(result: dict[str, Any], folder: Path) -> None:
    rows = [
        {key: row[key] for key in ("endpoint", "name", "success", "observed", "expected")}
        for row in sorted(result["expectations"], key=lambda row: row["success"])
    ]
    undecided = [
        {"endpoint": name, "name": "-", "success": None, "observed": endpoint["rows"], "expected": endpoint["reason"]}
        for name, endpoint in result["endpoints"].items()
        if endpoint["reason"]
    ]
    create_table_artifact(
        key="drift",
        table=rows + undecided or [{"endpoint": "-", "name": "the sample contains no request"}],
        description=f"Served requests: {result['verdict']}",
    )
    page = folder / "docs" / "index.html"
    create_link_artifact(key="drift-docs", link=page.as_uri(), description="Expectations on served requests")
