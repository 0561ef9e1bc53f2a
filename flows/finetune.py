"""Flow ``finetune``: a task, from what it needs to its figures on the test split."""

from __future__ import annotations

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows import _show


@flow(name="finetune", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def finetune(task: str, overrides: list[str] | None = None, pull: bool = False, push: bool = False) -> None:
    """Fine-tune and evaluate a task.

    Args:
        task: One of those of ``dvc.yaml``: retrieval, vqa, entailment, nlvr2, grounding.
        overrides: Other parameters, such as ``tasks.vqa.train.alpha=0.2``.
            What comes of them is a DVC experiment; the workspace stays as it is.
        pull: Take from the DVC remote what it has.
        push: Afterwards upload results to the DVC remote, for other machines to pull.
    """
    _show.bring([f"evaluate@{task}"], overrides, pull, push)
