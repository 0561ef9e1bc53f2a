"""Specification of pretraining."""

from __future__ import annotations

from albef.config import PretrainConfig
from albef.models.architecture import Architecture
from albef.tasks.spec import TaskSpec

SPEC = TaskSpec(
    name="pretrain",
    title="Pretraining",
    architecture=Architecture(projections="both", align=True, mlm=True),
    config=PretrainConfig,
    fine_tuning=False,
)
