"""Export of retrieval: graphs of both encoders and the ITM head, endpoint with its search index.

B = pairs, L = text tokens, W = width, P = projection width.
"""

from __future__ import annotations

from torch import Tensor, nn

from albef.config import Config
from albef.index import builder, commands
from albef.models.albef import ALBEF
from albef.serving import protocol
from albef.tasks.endpoint_folder import EndpointFolder, RepositoryInputs
from albef.tasks.onnx_wrappers import Graph, VisionGraph
from albef.tasks.retrieval import spec

INDEX_LIST = "retrieval_test.json"
"""List whose images and captions the index holds at first."""


class TextGraph(Graph):
    """Token ids and mask ``(B, L)`` to states ``(B, L, W)`` and ITC features ``(B, P)``."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode texts."""
        return self.model.encode_text(input_ids, attention_mask)


class FusionGraph(Graph):
    """Encoded images and texts, side by side, to ITM logits ``(B, 2)``."""

    def forward(self, image_embeds: Tensor, text_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        """Score pairs."""
        return self.model.match(text_embeds, attention_mask, image_embeds)


def modules(model: ALBEF, config: Config) -> dict[str, nn.Module]:
    """Return the modules of the graphs by name."""
    return {
        protocol.VISION: VisionGraph(model),
        spec.TEXT_GRAPH: TextGraph(model),
        spec.FUSION_GRAPH: FusionGraph(model),
    }


def write_endpoint(folder: EndpointFolder, config: Config, inputs: RepositoryInputs) -> None:
    """Write the settings and the search index of the retrieval endpoint."""
    folder.write_settings(
        spec.RetrievalSettings,
        shortlist=config.serve.shortlist,
        score=config.tasks.retrieval.evaluate.score,
        temperature=float(folder.origin[protocol.TEMPERATURE_KEY]),
    )
    images, captions = commands.read_retrieval_list(inputs.lists / INDEX_LIST, inputs.images)
    encoders = commands.load_encoders(folder.path, config.serve.threads)
    builder.build(folder.path / protocol.INDEX_FOLDER, encoders, images, captions, config.serve.index_dtype)
