"""Specification of the endpoint that classifies images by labels of the request.

C = labels, T = templates.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from albef.serving import protocol
from albef.serving.protocol import ANY, ModelSpec, Settings, TensorSpec
from albef.tasks.retrieval.spec import encoders
from albef.tasks.spec import EndpointSpec

TEMPLATES = "templates"
MAX_PROMPTS = 1000
"""Maximum number of labels times templates."""
MAX_PROMPT_BYTES = 100_000
"""Maximum size of these texts, all together."""


@dataclass(frozen=True)
class ClassifySettings(Settings):
    """Settings of the classification endpoint.

    Args:
        temperature: Divisor of the similarities before the softmax.
    """

    temperature: float


ENDPOINT = ModelSpec(
    "classify",
    (
        protocol.ONE_IMAGE,
        TensorSpec(protocol.LABELS, "BYTES", (ANY,)),
        TensorSpec(TEMPLATES, "BYTES", (ANY,), optional=True),
    ),
    protocol.label_outputs(ANY),
)
"""Zero-shot classification endpoint. Each row is an image; all rows of a request have the same labels and templates.

A template is a text with one ``{}``, where the label goes; without ``templates`` the label is the text. Features of a
label's texts are averaged. ``probabilities`` ``(C,)`` are the softmax of the similarities over the labels, in the order
of the request.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``albef ask classify``."""
    parser.add_argument("--image", type=Path, required=True, help="image file")
    parser.add_argument(
        "--template", dest="templates", action="append", help="text with {} in place of the label; may be repeated"
    )
    parser.add_argument("labels", nargs="+", help="labels to choose from")


SPEC = EndpointSpec(
    name="classify",
    graphs_of="retrieval",
    graphs=encoders,
    endpoint=ENDPOINT,
    settings=ClassifySettings,
    ask_help="classify an image by labels that you give",
    add_arguments=add_arguments,
)
