"""Specification of NLVR2: model, graphs, endpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from albef.config import ClassificationConfig
from albef.models.architecture import Architecture
from albef.serving import protocol
from albef.serving.protocol import GraphSizes, LabelSettings, ModelSpec, TensorSpec
from albef.tasks.spec import TaskSpec

CLASSES = 2


def graphs(sizes: GraphSizes) -> dict[str, ModelSpec]:
    """Return the signatures of image encoder and classifier of image pairs."""
    return {
        protocol.VISION: protocol.vision_graph("nlvr2", sizes, features=False),
        protocol.CLASSIFY: protocol.classify_graph("nlvr2", sizes, CLASSES, images=2),
    }


ENDPOINT = ModelSpec(
    "compare",
    (protocol.ONE_IMAGE, TensorSpec(protocol.SECOND_IMAGE, "BYTES", (1,)), protocol.ONE_TEXT),
    protocol.label_outputs(CLASSES),
)
"""NLVR2 endpoint. Each row is a statement (``text``) about two image files.

Labels are in class order, not sorted by ``probabilities``.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``albef ask compare``."""
    parser.add_argument("--images", type=Path, nargs=2, required=True, metavar="IMAGE", help="two image files")
    parser.add_argument("text", help="statement")


SPEC = TaskSpec(
    name="nlvr2",
    title="NLVR2: statements about two images",
    architecture=Architecture(classes=CLASSES, images=2),
    config=ClassificationConfig,
    test_list="nlvr_test",
    request_lists=("nlvr_train",),
    graphs=graphs,
    endpoint=ENDPOINT,
    settings=LabelSettings,
    ask_help="tell whether a statement about two images is true",
    add_arguments=add_arguments,
)
