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
