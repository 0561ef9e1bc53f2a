"""Export of grounding: ONNX image encoder and Grad-CAM, Triton endpoint.

B = pairs, L = text tokens, G = patches per side.
"""

from __future__ import annotations

from torch import Tensor, nn

from albef.config import Config
from albef.data.lists import Lists
from albef.inference.gradcam import itm_map_of
from albef.models.albef import ALBEF
from albef.serving import protocol
from albef.serving.protocol import Settings
from albef.tasks.endpoint_folder import EndpointFolder
from albef.tasks.grounding import spec
from albef.tasks.onnx_wrappers import Graph, VisionGraph


class HeatGraph(Graph):
    """Grad-CAM of pairs of an encoded image and a text.

    Args:
        block: Fusion layer whose attention is used.
    """

    differentiates = True

    def __init__(self, model: ALBEF, block: int) -> None:
        super().__init__(model)
        self.block = block

    def forward(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return heat maps ``(B, L, G, G)`` of the match logit."""
        return itm_map_of(self.model, image_embeds, input_ids, attention_mask, self.block)


def heat_block(config: Config, model: ALBEF) -> int:
    """Return the fusion layer of the heat map.

    If the parameters select a layer of the image encoder, it is the default one.
    """
    evaluate = config.tasks.grounding.evaluate
    return int(evaluate.block) if evaluate.mode == "itm" else spec.default_block(model.config, "itm")


def modules(model: ALBEF, config: Config) -> dict[str, nn.Module]:
    """Return the modules to export, by graph name."""
    return {protocol.VISION: VisionGraph(model), spec.HEAT_GRAPH: HeatGraph(model, heat_block(config, model))}


def write_endpoint(folder: EndpointFolder, config: Config, data: Lists) -> None:
    """Write the settings of the grounding endpoint."""
    folder.write_settings(Settings)
