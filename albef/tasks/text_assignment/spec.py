"""Specification of text assignment, a pretraining stage for NLVR2 (section 5)."""

from __future__ import annotations

from albef.config import TrainConfig
from albef.models.architecture import Architecture
from albef.tasks.spec import TaskSpec

SPEC = TaskSpec(
    name="text_assignment",
    title="Text assignment",
    architecture=Architecture(projections="image", classes=3, head="linear", images=2, teacher=False),
    config=TrainConfig,
    fine_tuning=False,
)
