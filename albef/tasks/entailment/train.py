"""Visual entailment (SNLI-VE): does a picture entail, contradict or leave open a sentence (paper section 5)?"""

from __future__ import annotations

from typing import ClassVar

from albef.tasks.classification import Classification


class Entailment(Classification):
    """Three classes over one picture."""

    name: ClassVar[str] = "entailment"
    prefix: ClassVar[str] = "ve"
    lists: ClassVar[tuple[str, ...]] = ("ve_train", "ve_val")


TASK = Entailment
