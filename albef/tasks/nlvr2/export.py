"""Export of NLVR2: ONNX image encoder and classifier of two images, Triton endpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from albef.config import Config
from albef.data.lists import Lists
from albef.data.schema import NLVR_LABELS
from albef.models.albef import ALBEF
from albef.serving import protocol
from albef.serving.protocol import LabelSettings
from albef.tasks.endpoint_folder import EndpointFolder
from albef.tasks.onnx_wrappers import ClassifyGraph, TokensGraph


class ClassifyPairGraph(ClassifyGraph):
    """Classifier of two encoded images and a sentence."""

    def forward(  # type: ignore[override]
        self, image_embeds: Tensor, second_image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """Return class logits ``(B, classes)``."""
        return super().forward(torch.cat([image_embeds, second_image_embeds]), input_ids, attention_mask)


def modules(model: ALBEF, config: Config) -> dict[str, nn.Module]:
    """Return the modules to export, by graph name."""
    return {protocol.VISION: TokensGraph(model), protocol.CLASSIFY: ClassifyPairGraph(model)}


def write_endpoint(folder: EndpointFolder, config: Config, data: Lists) -> None:
    """Write the settings of the NLVR2 endpoint."""
    folder.write_settings(LabelSettings, labels=list(NLVR_LABELS))
