"""What is exported: the graphs of every task with their signatures, and what ties them to their model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor, nn

from albef.config import Config
from albef.export import onnx_wrappers
from albef.models.albef import ALBEF
from albef.serving import protocol
from albef.serving.protocol import GraphSizes, ModelSpec

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


def heat_block(config: Config, model: ALBEF) -> int:
    """Fusion layer of the heat map: that of the parameters.

    Where they look at the image encoder instead, it is the official one as a share of the depth: 2 of 6.
    """
    look = config.tasks.grounding.evaluate
    return look.block if look.mode == "itm" else model.config.text.fusion_layers // 3


def _retrieval(model: ALBEF, config: Config) -> dict[str, nn.Module]:
    return {
        protocol.VISION: onnx_wrappers.VisionGraph(model),
        protocol.TEXT: onnx_wrappers.TextGraph(model),
        protocol.FUSION: onnx_wrappers.FusionGraph(model),
    }


def _vqa(model: ALBEF, config: Config) -> dict[str, nn.Module]:
    return {
        protocol.VISION: onnx_wrappers.TokensGraph(model),
        protocol.QUESTION: onnx_wrappers.QuestionGraph(model),
        protocol.DECODER: onnx_wrappers.DecoderGraph(model),
    }


def _entailment(model: ALBEF, config: Config) -> dict[str, nn.Module]:
    return {protocol.VISION: onnx_wrappers.TokensGraph(model), protocol.CLASSIFY: onnx_wrappers.ClassifyGraph(model)}


def _nlvr2(model: ALBEF, config: Config) -> dict[str, nn.Module]:
    return {
        protocol.VISION: onnx_wrappers.TokensGraph(model),
        protocol.CLASSIFY: onnx_wrappers.ClassifyPairGraph(model),
    }


def _grounding(model: ALBEF, config: Config) -> dict[str, nn.Module]:
    heat = onnx_wrappers.HeatGraph(model, heat_block(config, model))
    return {protocol.VISION: onnx_wrappers.VisionGraph(model), protocol.HEAT: heat}


TASKS: dict[str, Callable[[ALBEF, Config], dict[str, nn.Module]]] = {
    "retrieval": _retrieval,
    "vqa": _vqa,
    "entailment": _entailment,
    "nlvr2": _nlvr2,
    "grounding": _grounding,
}
"""The modules of the tasks that can be exported; `contract.GRAPHS` has their signatures."""


def graphs_of(task: str, model: ALBEF, config: Config) -> Graphs:
    """The graphs of a task.

    Raises:
        ValueError: If the task has no export.
    """
    if task not in TASKS:
        raise ValueError(f"no export for task {task!r}; known are {', '.join(TASKS)}")
    specs = protocol.GRAPHS[task](graph_sizes(model))
    return {name: (module.eval(), specs[name]) for name, module in TASKS[task](model, config).items()}


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
