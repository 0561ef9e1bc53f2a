"""What is exported: thin modules around a model, one per graph of the serving contract.

B = images or texts, N = image tokens, L = text tokens, W = width, P = projection width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor, nn

from albef.model.albef import ALBEF
from albef.serving import contract
from albef.serving.contract import GraphSizes, ModelSpec


class VisionGraph(nn.Module):
    """Pixels ``(B, 3, H, H)`` to tokens ``(B, N, W)`` and ITC features ``(B, P)``."""

    def __init__(self, model: ALBEF) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images."""
        return self.model.encode_image(pixel_values)


class TextGraph(nn.Module):
    """Token ids and mask ``(B, L)`` to states ``(B, L, W)`` and ITC features ``(B, P)``."""

    def __init__(self, model: ALBEF) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode texts."""
        return self.model.encode_text(input_ids, attention_mask)


class FusionGraph(nn.Module):
    """Encoded images and texts, side by side, to ITM logits ``(B, 2)``."""

    def __init__(self, model: ALBEF) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_embeds: Tensor, text_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        """Score pairs."""
        return self.model.match(text_embeds, attention_mask, image_embeds)


def graph_sizes(model: ALBEF) -> GraphSizes:
    """The sizes that the contract needs, measured on the model itself."""
    size = model.config.image_size
    parameter = next(model.parameters())
    with torch.no_grad():
        embeds, feat = model.encode_image(torch.zeros(1, 3, size, size, dtype=parameter.dtype, device=parameter.device))
    return GraphSizes(
        image_size=size,
        image_tokens=embeds.shape[1],
        vision_width=embeds.shape[2],
        text_width=model.config.text.width,
        projection=feat.shape[1],
    )


def retrieval_graphs(model: ALBEF) -> dict[str, tuple[nn.Module, ModelSpec]]:
    """The graphs of retrieval, by name, each with its signature."""
    specs = contract.retrieval_graphs(graph_sizes(model))
    modules: dict[str, Callable[[ALBEF], nn.Module]] = {
        contract.VISION: VisionGraph,
        contract.TEXT: TextGraph,
        contract.FUSION: FusionGraph,
    }
    return {name: (modules[name](model).eval(), spec) for name, spec in specs.items()}


TASKS = {"retrieval": retrieval_graphs}
"""Tasks that can be exported."""


def served_parts(model: ALBEF) -> dict[str, Tensor]:
    """The tensors that answers depend on: everything but the teacher and the queue."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith(("teacher.", "queue."))}


def model_hash(model: ALBEF) -> str:
    """Hash of a model's sizes and of every weight its answers depend on."""
    digest = hashlib.sha256(json.dumps(asdict(model.config), sort_keys=True).encode())
    for name, value in sorted(served_parts(model).items()):
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
