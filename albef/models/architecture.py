"""Which parts a model has besides its encoders, by the task it is for.

The names are those of the checkpoint layouts: a stage that starts from another one's model knows by them what there
is to take over (`albef.weights.adapt_weights`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Architecture:
    """Parts of a model.

    Args:
        projections: Maps to ITC features: of both encoders, of the image tower alone, or none.
        align: ITM head, learnable temperature and queue.
        mlm: MLM head.
        decoder: Answer decoder.
        classes: Of the classification head; 0 is no head.
        head: A linear map, or two with ReLU between.
        images: Pictures a text looks at.
        teacher: Whether there is a momentum teacher.
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
    """The layout of a task's model.

    Raises:
        ValueError: If no task has this name.
    """
    if task not in ARCHITECTURES:
        raise ValueError(f"no model layout {task!r}; known are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[task]


def models_for(task: str) -> list[str]:
    """Tasks whose models can answer ``task``: its own, and with ITC and ITM every other one that has both.

    Retrieval from a pretraining model is zero-shot retrieval (paper section 5).

    Raises:
        ValueError: If no task has this name.
    """
    wanted = architecture_of(task)
    return [name for name, other in ARCHITECTURES.items() if (other.align if wanted.align else other == wanted)]
