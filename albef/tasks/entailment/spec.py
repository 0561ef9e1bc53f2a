"""Description of visual entailment: model, graphs, endpoint."""

from __future__ import annotations

from dataclasses import dataclass

from albef.config import ClassificationConfig
from albef.models.architecture import Architecture
from albef.serving import protocol
from albef.serving.protocol import GraphSizes, ModelSpec, Settings, TensorSpec
from albef.tasks.spec import TaskSpec

CLASSES = 3


@dataclass(frozen=True)
class EntailmentSettings(Settings):
    """Settings of the visual entailment endpoint: ``labels`` in the order of the classes."""

    labels: list[str]


def graphs(sizes: GraphSizes) -> dict[str, ModelSpec]:
    """Return the graphs: image encoder, and classifier of a hypothesis over its output."""
    return {
        protocol.VISION: protocol.vision_graph("entailment", sizes, features=False),
        protocol.CLASSIFY: protocol.classify_graph("entailment", sizes, CLASSES),
    }


ENDPOINT = ModelSpec(
    "entailment",
    (protocol.ONE_IMAGE, protocol.ONE_TEXT),
    (
        TensorSpec(protocol.LABELS, "BYTES", (CLASSES,)),
        TensorSpec(protocol.PROBABILITIES, "FP32", (CLASSES,)),
    ),
)
"""The visual entailment endpoint. A row is a hypothesis (``text``) about an image file. The labels are in the order of
the classes, whatever their ``probabilities``."""

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
    settings=EntailmentSettings,
)
