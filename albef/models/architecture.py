"""Model architectures by task: the modules a model has besides its encoders.

Task names also name the checkpoint layouts. A stage that starts from another stage's model uses them to decide which
weights to transfer (`albef.weights.adapt_weights`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Architecture:
    """Optional modules of a model.

    Args:
        projections: Encoders with a projection to ITC features: both, only the image encoder, or none.
        align: Include the ITM head, the learnable temperature and the queue.
        mlm: Include the MLM head.
        decoder: Include the answer decoder.
        classes: Classes of the classification head; 0 for no head.
        head: Classification head: one linear layer, or two with a ReLU between.
        images: Images per text.
        teacher: Include the momentum teacher.
    """

    projections: Literal["none", "image", "both"] = "none"
    align: bool = False
    mlm: bool = False
    decoder: bool = False
    classes: int = 0
    head: Literal["linear", "mlp"] = "mlp"
    images: int = 1
    teacher: bool = True


ARCHITECTURES = {
    "pretrain": Architecture(projections="both", align=True, mlm=True),
    "retrieval": Architecture(projections="both", align=True),
    "grounding": Architecture(projections="both", align=True),
    "vqa": Architecture(decoder=True),
    "entailment": Architecture(classes=3),
    "nlvr2": Architecture(classes=2, images=2),
    "text_assignment": Architecture(projections="image", classes=3, head="linear", images=2, teacher=False),
}
"""By task name."""


def architecture_of(task: str) -> Architecture:
    """Return the architecture of a task's model.

    Raises:
        ValueError: If no task has this name.
    """
    if task not in ARCHITECTURES:
        raise ValueError(f"no model layout {task!r}; known are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[task]


def models_for(task: str) -> list[str]:
    """Return the tasks whose models can perform ``task``.

    A task that uses ITC and ITM accepts every model that has both, any other task only models of its own architecture.
    Retrieval with a pretraining model is zero-shot retrieval (paper section 5).

    Raises:
        ValueError: If no task has this name.
    """
    wanted = architecture_of(task)
    return [name for name, other in ARCHITECTURES.items() if (other.align if wanted.align else other == wanted)]
