"""Specification of NLVR2: model and graphs."""

from __future__ import annotations

from albef.config import ClassificationConfig
from albef.models.architecture import Architecture
from albef.serving import protocol
from albef.serving.protocol import GraphSizes, ModelSpec
from albef.tasks.spec import TaskSpec

CLASSES = 2


def graphs(sizes: GraphSizes) -> dict[str, ModelSpec]:
    """Return the signatures of image encoder and classifier of image pairs."""
    return {
        protocol.VISION: protocol.vision_graph("nlvr2", sizes, features=False),
        protocol.CLASSIFY: protocol.classify_graph("nlvr2", sizes, CLASSES, images=2),
    }


SPEC = TaskSpec(
    name="nlvr2",
    title="NLVR2: statements about two images",
    architecture=Architecture(classes=CLASSES, images=2),
    config=ClassificationConfig,
    test_list="nlvr_test",
    graphs=graphs,
)
