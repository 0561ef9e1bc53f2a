"""Graphs of both encoders, and the endpoint's settings."""

from __future__ import annotations

from prompt_classification import spec
from torch import nn

from albef.config import Config
from albef.data.lists import Lists
from albef.models.albef import ALBEF
from albef.serving import protocol
from albef.tasks.endpoint_folder import EndpointFolder
from albef.tasks.onnx_wrappers import VisionGraph
from albef.tasks.retrieval.export import TextGraph


def modules(model: ALBEF, config: Config) -> dict[str, nn.Module]:
    """Return the modules of the graphs by name."""
    return {protocol.VISION: VisionGraph(model), spec.TEXT_GRAPH: TextGraph(model)}


def write_endpoint(folder: EndpointFolder, config: Config, data: Lists) -> None:
    """Write the settings."""
    prompts = config.tasks.prompt_classification.evaluate
    folder.write_settings(
        spec.PromptSettings,
        classes=prompts.classes,
        templates=prompts.templates,
        temperature=float(folder.origin[protocol.TEMPERATURE_KEY]),
    )
