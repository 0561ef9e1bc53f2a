"""Flow ``pretrain``: the stage of that name and all that it needs."""

from __future__ import annotations

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows import _dvc


@flow(name="pretrain", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def pretrain(push: bool = False) -> None:
    """Prepare and validate the data, train the tokenizer and pretrain the model.

    Args:
        push: Afterwards upload results to the DVC remote, for other machines to pull.
    """
    _dvc.publish(_dvc.run("pretrain", push))
