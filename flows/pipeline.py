"""Flow ``pipeline``: every stage, or one and all that it needs."""

from __future__ import annotations

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows import _dvc


@flow(name="pipeline", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def pipeline(target: str | None = None, push: bool = False) -> None:
    """Bring the pipeline up to date.

    Args:
        target: A stage of ``dvc.yaml`` such as ``evaluate@retrieval``; everything without one.
        push: Afterwards upload results to the DVC remote, for other machines to pull.
    """
    _dvc.publish(_dvc.run(target, push))
