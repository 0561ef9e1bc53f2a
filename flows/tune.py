"""Flow ``tune``: hyper-parameter search of a task, with all upstream stages."""

from __future__ import annotations

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows import _show


@flow(name="tune", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def tune(task: str, overrides: list[str] | None = None, pull: bool = False, push: bool = False) -> None:
    """Search the hyper-parameters of a task.

    Args:
        task: Task with a search in ``dvc.yaml``: retrieval, vqa or entailment.
        overrides: Parameters to change, such as ``tune.trials=16``.
            The result is a DVC experiment; the workspace is unchanged.
        pull: Download existing results from the DVC remote instead of computing them.
        push: Upload results to the DVC remote afterwards.
    """
    _show.reproduce([f"tune@{task}"], overrides, pull, push)
