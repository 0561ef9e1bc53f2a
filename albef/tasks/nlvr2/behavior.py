"""NLVR2 under behavioral tests."""

from __future__ import annotations

from albef.data.schema import NLVR_LABELS
from albef.tasks.classification_behavior import Classification


class Behavior(Classification):
    """NLVR2: the class of a text."""

    task, labels, holding = "nlvr2", NLVR_LABELS, "True"
