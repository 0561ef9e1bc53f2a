"""Visual entailment (SNLI-VE): entailment, neutral or contradiction (paper section 5)."""

from __future__ import annotations

from typing import ClassVar

from albef.tasks.classification import Classification


class Entailment(Classification):
    """Three-way classification of an image and a sentence."""

    name: ClassVar[str] = "entailment"
    prefix: ClassVar[str] = "ve"
    lists: ClassVar[tuple[str, ...]] = ("ve_train", "ve_val")


TASK = Entailment
