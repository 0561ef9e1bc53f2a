"""Export of visual entailment: ONNX image encoder and classifier, Triton endpoint."""

from __future__ import annotations

from torch import nn

from albef.config import Config
from albef.data.lists import Lists
from albef.data.schema import VE_LABELS
from albef.models.albef import ALBEF
from albef.serving import protocol
from albef.serving.protocol import LabelSettings
from albef.tasks.endpoint_folder import EndpointFolder
from albef.tasks.onnx_wrappers import ClassifyGraph, TokensGraph


def modules(model: ALBEF, config: Config) -> dict[str, nn.Module]:
    """Return the modules to export, by graph name."""
    return {protocol.VISION: TokensGraph(model), protocol.CLASSIFY: ClassifyGraph(model)}


def write_endpoint(folder: EndpointFolder, config: Config, data: Lists) -> None:
    """Write the settings of the visual entailment endpoint."""
    folder.write_settings(LabelSettings, labels=list(VE_LABELS))
