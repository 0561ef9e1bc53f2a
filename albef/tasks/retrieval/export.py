"""Export of retrieval: ONNX graphs, Triton endpoint and its search index.

B = texts or pairs, L = text tokens, W = width, P = projection width.
"""

from __future__ import annotations

from torch import Tensor, nn

from albef.config import Config
from albef.data.lists import Lists
from albef.index import builder, commands
from albef.models.albef import ALBEF
from albef.serving import protocol
from albef.tasks.endpoint_folder import EndpointFolder
from albef.tasks.onnx_wrappers import Graph, VisionGraph
from albef.tasks.retrieval import spec


class TextGraph(Graph):
    """Text encoder with ITC projection."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return states ``(B, L, W)`` and ITC features ``(B, P)``."""
        return self.model.encode_text(input_ids, attention_mask)


class FusionGraph(Graph):
    """Fusion of pairs of encoded image and text, with ITM head."""

    def forward(self, image_embeds: Tensor, text_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        """Return ITM logits ``(B, 2)``."""
        return self.model.match(text_embeds, attention_mask, image_embeds)


def modules(model: ALBEF, config: Config) -> dict[str, nn.Module]:
    """Return the modules to export, by graph name."""
    return {
        protocol.VISION: VisionGraph(model),
        spec.TEXT_GRAPH: TextGraph(model),
        spec.FUSION_GRAPH: FusionGraph(model),
    }


def write_endpoint(folder: EndpointFolder, config: Config, data: Lists) -> None:
    """Write the settings and the search index of the retrieval endpoint.

    The index holds images and captions of the test list.
    """
    folder.write_settings(
        spec.RetrievalSettings,
        shortlist=config.serve.shortlist,
        score=config.tasks.retrieval.evaluate.score,
        temperature=float(folder.origin[protocol.TEMPERATURE_KEY]),
    )
    images, captions = commands.images_and_captions(data[str(spec.SPEC.test_list)])
    encoders = commands.load_encoders(folder.path, config.serve.threads)
    builder.build(folder.path / protocol.INDEX_FOLDER, encoders, images, captions, config.serve.index_dtype)
