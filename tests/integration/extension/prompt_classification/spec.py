"""Description of the task: parameters, graphs, endpoint.

C = classes of a request, P = projection width.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from albef.config import AlignTrainConfig, TaskConfig
from albef.data.schema import Field
from albef.models.architecture import Architecture
from albef.serving import protocol
from albef.serving.protocol import ANY, GraphSizes, ModelSpec, Settings, TensorSpec
from albef.tasks.spec import TaskSpec

NAME = "prompt_classification"
TEXT_GRAPH = "text"
_STRING = Field(lambda value: isinstance(value, str) and bool(value), "a string")


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """Classes and the texts that describe them."""

    classes: list[str]
    templates: list[str]  # with {} for the class
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Config(TaskConfig):
    """Section ``tasks.prompt_classification`` of the parameters."""

    train: AlignTrainConfig
    evaluate: PromptConfig


@dataclass(frozen=True)
class PromptSettings(Settings):
    """Settings of the endpoint: default classes, templates, temperature of the softmax."""

    classes: list[str]
    templates: list[str]
    temperature: float


def graphs(sizes: GraphSizes) -> dict[str, ModelSpec]:
    """Return the graphs: both encoders with their ITC features."""
    feature = TensorSpec(protocol.TEXT_FEAT, "FP32", (sizes.projection,))
    states = TensorSpec(protocol.TEXT_EMBEDS, "FP32", (ANY, sizes.text_width))
    return {
        protocol.VISION: protocol.vision_graph(NAME, sizes, features=True),
        TEXT_GRAPH: ModelSpec(protocol.model_name(NAME, TEXT_GRAPH), protocol.WORDS, (states, feature)),
    }


ENDPOINT = ModelSpec(
    NAME,
    (protocol.ONE_IMAGE, TensorSpec(protocol.LABELS, "BYTES", (ANY,), optional=True)),
    (TensorSpec(protocol.LABELS, "BYTES", (ANY,)), TensorSpec(protocol.PROBABILITIES, "FP32", (ANY,))),
)
"""A row is an image file; all rows share the ``labels`` to choose from, by default the classes of the parameters."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``albef ask prompt_classification``."""
    parser.add_argument("--image", type=Path, required=True, help="image file")
    parser.add_argument("--labels", nargs="+", help="classes to choose from")


SPEC = TaskSpec(
    name=NAME,
    title="Classification with prompts",
    architecture=Architecture(projections="both", align=True),
    config=Config,
    test_list="prompt_test",
    lists={"prompt_test": {"image": _STRING, "label": _STRING}},
    graphs=graphs,
    endpoint=ENDPOINT,
    settings=PromptSettings,
    ask_help="classify an image",
    add_arguments=add_arguments,
)
