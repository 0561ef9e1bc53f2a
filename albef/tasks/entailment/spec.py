"""Specification of visual entailment: model, graphs, endpoint."""

from __future__ import annotations

from albef.config import ClassificationConfig
from albef.models.architecture import Architecture
from albef.serving import protocol
from albef.serving.protocol import GraphSizes, LabelSettings, ModelSpec
from albef.tasks.spec import TaskSpec

CLASSES = 3


def graphs(sizes: GraphSizes) -> dict[str, ModelSpec]:
    """Return the signatures of the image encoder and of the classifier."""
    return {
        protocol.VISION: protocol.vision_graph("entailment", sizes, features=False),
        protocol.CLASSIFY: protocol.classify_graph("entailment", sizes, CLASSES),
    }


ENDPOINT = ModelSpec("entailment", (protocol.ONE_IMAGE, protocol.ONE_TEXT), protocol.label_outputs(CLASSES))
"""Visual entailment endpoint. Each row is a hypothesis (``text``) about an image file.

Labels are in class order, not sorted by ``probabilities``.
"""

SPEC = TaskSpec(
    name="entailment",
    title="Visual entailment",
    architecture=Architecture(classes=CLASSES),
    config=ClassificationConfig,
    test_list="ve_test",
    request_lists=("ve_train",),
    graphs=graphs,
    endpoint=ENDPOINT,
    ask_help="classify whether an image entails a hypothesis",
    settings=LabelSettings,
)
