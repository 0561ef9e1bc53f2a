"""Flow ``pipeline``: all stages, or one with its upstream stages."""

from __future__ import annotations

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows import _show


@flow(name="pipeline", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def pipeline(
    target: str | None = None, overrides: list[str] | None = None, pull: bool = False, push: bool = False
) -> None:
    """Reproduce the pipeline.

    Args:
        target: Stage of ``dvc.yaml``, such as ``evaluate@retrieval``; all stages by default.
        overrides: Parameters to change, such as ``pretrain.epochs=2``.
            The result is a DVC experiment; the workspace is unchanged.
        pull: Download existing results from the DVC remote instead of computing them.
        push: Upload results to the DVC remote afterwards.
    """
    _show.reproduce([target] if target else [], overrides, pull, push)
