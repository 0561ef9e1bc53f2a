"""Graphs to export with their signatures, and the model hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import torch
from torch import Tensor, nn

from albef.config import Config
from albef.models.albef import ALBEF
from albef.serving.protocol import GraphSizes, ModelSpec
from albef.tasks import registry

Graphs = dict[str, tuple[nn.Module, ModelSpec]]
"""Module and signature by graph name; outputs of earlier graphs may be inputs of later ones."""


def graph_sizes(model: ALBEF) -> GraphSizes:
    """Return the sizes of a model, measured by a forward pass."""
    size = model.config.image_size
    parameter = next(model.parameters())
    with torch.no_grad():
        embeds = model.student.vision(torch.zeros(1, 3, size, size, dtype=parameter.dtype, device=parameter.device))
    return GraphSizes(
        image_size=size,
        image_tokens=embeds.shape[1],
        vision_width=embeds.shape[2],
        text_width=model.config.text.width,
        projection=model.config.projection if model.architecture.projections != "none" else 0,
        vocabulary=model.vocab_size if model.architecture.decoder else 0,
    )


def graphs_of(task: str, model: ALBEF, config: Config) -> Graphs:
    """Return the graphs of a task, in evaluation mode.

    Raises:
        UnknownTaskError: If the task has no export.
    """
    specs = registry.graphs(task, graph_sizes(model))
    modules = registry.module(task, "export").modules(model, config)
    return {name: (module.eval(), specs[name]) for name, module in modules.items()}


def inference_tensors(model: ALBEF) -> dict[str, Tensor]:
    """Return the tensors used in inference, without teacher and queue."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith(("teacher.", "queue."))}


def model_hash(model: ALBEF) -> str:
    """Return the hash of a model's configuration and of its inference weights."""
    digest = hashlib.sha256(json.dumps(asdict(model.config), sort_keys=True).encode())
    for name, value in sorted(inference_tensors(model).items()):
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
