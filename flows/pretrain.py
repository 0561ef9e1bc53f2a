"""Flow ``pretrain``: the stage of that name and all that it needs."""

from __future__ import annotations

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows import _show


@flow(name="pretrain", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def pretrain(overrides: list[str] | None = None, pull: bool = False, push: bool = False) -> None:
    """Prepare and validate the data, train the tokenizer and pretrain the model.

    Args:
        overrides: Other parameters, such as ``pretrain.epochs=2``.
            What comes of them is a DVC experiment; the workspace stays as it is.
        pull: Take from the DVC remote what it has.
        push: Afterwards upload results to the DVC remote, for other machines to pull.
    """
    _show.bring(["pretrain"], overrides, pull, push)
