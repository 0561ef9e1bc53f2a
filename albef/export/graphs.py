"""What is exported: the graphs of every task with their signatures, and what ties them to their model."""

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
"""Graphs by name, each a module with its signature; later ones may take what earlier ones give."""


def graph_sizes(model: ALBEF) -> GraphSizes:
    """The sizes that the contract needs, measured on the model itself."""
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
    """Return the graphs of a task.

    Raises:
        UnknownTaskError: If the task has no export.
    """
    specs = registry.graphs(task, graph_sizes(model))
    modules = registry.module(task, "export").modules(model, config)
    return {name: (module.eval(), specs[name]) for name, module in modules.items()}


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
