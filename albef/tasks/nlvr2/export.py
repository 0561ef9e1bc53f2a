"""ONNX export of NLVR2: image encoder and classifier of two images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from albef.config import Config
from albef.models.albef import ALBEF
from albef.serving import protocol
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
