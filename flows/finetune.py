"""Flow ``finetune``: fine-tuning and evaluation of a task, with all upstream stages."""

from __future__ import annotations

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows import _show


@flow(name="finetune", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def finetune(task: str, overrides: list[str] | None = None, pull: bool = False, push: bool = False) -> None:
    """Fine-tune and evaluate a task.

    Args:
        task: Task of ``dvc.yaml``: retrieval, vqa, entailment, nlvr2 or grounding.
        overrides: Parameters to change, such as ``tasks.vqa.train.alpha=0.2``.
            The result is a DVC experiment; the workspace is unchanged.
        pull: Download existing results from the DVC remote instead of computing them.
        push: Upload results to the DVC remote afterwards.
    """
    _show.reproduce([f"evaluate@{task}"], overrides, pull, push)
