"""Visual entailment under behavioral tests."""

from __future__ import annotations

from albef.data.schema import VE_LABELS
from albef.tasks.classification_behavior import Classification


class Behavior(Classification):
    """Visual entailment: the class of a text."""

    task, labels, holding = "entailment", VE_LABELS, "entailment"
