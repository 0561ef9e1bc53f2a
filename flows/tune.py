"""Flow ``tune``: the hyper-parameters of a task, searched."""

from __future__ import annotations

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows import _show


@flow(name="tune", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def tune(task: str, overrides: list[str] | None = None, pull: bool = False, push: bool = False) -> None:
    """Search the hyper-parameters of a task.

    Args:
        task: One that ``dvc.yaml`` has a search for: retrieval, vqa, entailment.
        overrides: Other parameters, such as ``tune.trials=16``.
            What comes of them is a DVC experiment; the workspace stays as it is.
        pull: Take from the DVC remote what it has.
        push: Afterwards upload results to the DVC remote, for other machines to pull.
    """
    _show.bring([f"tune@{task}"], overrides, pull, push)
