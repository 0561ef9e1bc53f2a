"""Flow ``pretrain``: the stage ``pretrain`` with its upstream stages."""

from __future__ import annotations

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows import _show


@flow(name="pretrain", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def pretrain(overrides: list[str] | None = None, pull: bool = False, push: bool = False) -> None:
    """Prepare and validate the data, train the tokenizer and pretrain the model.

    Args:
        overrides: Parameters to change, such as ``pretrain.epochs=2``.
            The result is a DVC experiment; the workspace is unchanged.
        pull: Download existing results from the DVC remote instead of computing them.
        push: Upload results to the DVC remote afterwards.
    """
    _show.reproduce(["pretrain"], overrides, pull, push)
