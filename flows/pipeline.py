"""Flow ``pipeline``: every stage, or one and all that it needs."""

from __future__ import annotations

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows import _show


@flow(name="pipeline", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def pipeline(
    target: str | None = None, overrides: list[str] | None = None, pull: bool = False, push: bool = False
) -> None:
    """Bring the pipeline up to date.

    Args:
        target: A stage of ``dvc.yaml`` such as ``evaluate@retrieval``; everything without one.
        overrides: Other parameters, such as ``pretrain.epochs=2``.
            What comes of them is a DVC experiment; the workspace stays as it is.
        pull: Take from the DVC remote what it has.
        push: Afterwards upload results to the DVC remote, for other machines to pull.
    """
    _show.bring([target] if target else [], overrides, pull, push)
