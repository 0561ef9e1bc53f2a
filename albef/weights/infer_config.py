"""Inference of model dimensions from official checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from albef.config import ModelConfig, TextConfig, VisionConfig
from albef.tasks import registry
from albef.weights.official import CheckpointError, infer_task


def infer_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the fields of `ModelConfig`, by dotted name, from tensor shapes.

    The numbers of attention heads do not show in tensor shapes and are not included.

    Raises:
        CheckpointError: If a required tensor is missing or has the wrong number of dimensions.
    """
    architecture = registry.spec(infer_task(state)).architecture
    bert = "text_encoder.bert." if architecture.mlm else "text_encoder."

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in state:
            raise CheckpointError(f"no tensor {name}, expected an official ALBEF checkpoint")
        if state[name].ndim != rank:
            raise CheckpointError(f"{name} has shape {tuple(state[name].shape)}, expected {rank} dimensions")
        return tuple(state[name].shape)

    def count(pattern: str) -> int:
        return len({m[1] for key in state if (m := re.fullmatch(pattern, key))})

    conv = "visual_encoder.patch_embed.proj.0.weight" in state
    # The last convolution of a conv stem follows two convolutions of stride 2.
    patch = shape(f"visual_encoder.patch_embed.proj.{'6.' if conv else ''}weight", 4)
    positions = shape(f"{bert}embeddings.position_embeddings.weight", 2)
    fusion = count(re.escape(bert) + r"encoder\.layer\.(\d+)\.crossattention\.self\.query\.weight")
    total = count(re.escape(bert) + r"encoder\.layer\.(\d+)\.attention\.self\.query\.weight")
    patch_size = patch[2] * (4 if conv else 1)
    sizes: dict[str, Any] = {
        "image_size": round(max(shape("visual_encoder.pos_embed", 3)[1] - 1, 0) ** 0.5) * patch_size,
        "patch_size": patch_size,
        "vision.width": patch[0],
        "vision.depth": count(r"visual_encoder\.blocks\.(\d+)\.norm1\.weight"),
        "vision.stem": "conv" if conv else "patch",
        "text.width": positions[1],
        "text.layers": total - fusion,
        "text.fusion_layers": fusion // architecture.images,
        "text.ffn": shape(f"{bert}encoder.layer.0.intermediate.dense.weight", 2)[0],
        "text.max_positions": positions[0],
    }
    if architecture.decoder:
        sizes["text.decoder_layers"] = count(r"text_decoder\.bert\.encoder\.layer\.(\d+)\.output\.dense\.weight")
    if architecture.projections != "none":
        sizes["projection"] = shape("vision_proj.weight", 2)[0]
    if architecture.align and "image_queue" in state:
        sizes["queue_size"] = shape("image_queue", 2)[1]
    return sizes


def vocab_size(state: Mapping[str, Tensor]) -> int:
    """Return the number of word embeddings, 0 if there are none."""
    return next((len(v) for k, v in state.items() if k.endswith("word_embeddings.weight") and v.ndim), 0)


def size_mismatches(config: ModelConfig, state: Mapping[str, Tensor]) -> list[str]:
    """Describe the model dimensions in which ``config`` and a state dict differ.

    The image size may differ, as position embeddings are interpolated, and the queue size, as the queue is refilled
    during training.

    Raises:
        CheckpointError: If a required tensor is missing.
    """
    mismatches = []
    for name, size in infer_sizes(state).items():
        if name in ("image_size", "queue_size"):
            continue
        expected: Any = config
        for part in name.split("."):
            expected = getattr(expected, part)
        if name == "text.decoder_layers" and expected is None:
            expected = config.text.fusion_layers
        if expected != size:
            mismatches.append(f"model.{name} is {expected} in the parameters and {size} in the checkpoint")
    return mismatches


def infer_config(state: Mapping[str, Tensor], vision_heads: int, text_heads: int, **settings: Any) -> ModelConfig:
    """Infer the model configuration of an official checkpoint.

    Args:
        vision_heads: Attention heads of the image encoder (not inferable from tensor shapes).
        text_heads: Likewise of the text encoder.
        settings: Fields of `ModelConfig` that are not inferable: ``momentum``, ``temperature``, ``official_quirks``,
            and ``queue_size`` and ``projection`` if the checkpoint has neither.

    Raises:
        CheckpointError: If a required tensor is missing.
    """
    sizes = infer_sizes(state)
    vision = {name.removeprefix("vision."): sizes.pop(name) for name in [*sizes] if name.startswith("vision.")}
    text = {name.removeprefix("text."): sizes.pop(name) for name in [*sizes] if name.startswith("text.")}
    return ModelConfig(
        vision=VisionConfig(**vision, heads=vision_heads, drop_path=0.0),
        text=TextConfig(**text, heads=text_heads, dropout=0.1),
        **{**settings, **sizes},
    )
