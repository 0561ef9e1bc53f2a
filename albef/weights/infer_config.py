"""Sizes of the model that a state dict in the official layout was saved from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from albef.config import ModelConfig, TextConfig, VisionConfig
from albef.models.architecture import architecture_of
from albef.weights.official import CheckpointError, infer_task


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of `ModelConfig` by dotted name, as far as tensors tell them: not the numbers of attention heads.

    Raises:
        CheckpointError: If a tensor that tells a size is missing or no matrix at all.
    """
    architecture = architecture_of(infer_task(state))
    bert = "text_encoder.bert." if architecture.mlm else "text_encoder."

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in state:
            raise CheckpointError(f"no tensor {name}: not an official layout")
        if state[name].ndim != rank:
            raise CheckpointError(f"{name}: shape {tuple(state[name].shape)}, expected {rank} dimensions")
        return tuple(state[name].shape)

    def count(pattern: str) -> int:
        return len({m[1] for key in state if (m := re.fullmatch(pattern, key))})

    conv = "visual_encoder.patch_embed.proj.0.weight" in state
    # A convolutional stem ends in the projection that follows two strides of 2.
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


def differences(config: ModelConfig, state: Mapping[str, Tensor]) -> list[str]:
    """What keeps a state dict from a model of ``config``, one phrase a size.

    Two sizes may differ: position embeddings are interpolated, and the queue only keeps what will be overwritten.

    Raises:
        CheckpointError: If a tensor that tells a size is missing.
    """
    found = []
    for name, size in sizes_of(state).items():
        if name in ("image_size", "queue_size"):
            continue
        wanted: Any = config
        for part in name.split("."):
            wanted = getattr(wanted, part)
        if name == "text.decoder_layers" and wanted is None:
            wanted = config.text.fusion_layers
        if wanted != size:
            found.append(f"model.{name} is {wanted} in the parameters and {size} in the checkpoint")
    return found


def infer_config(state: Mapping[str, Tensor], vision_heads: int, text_heads: int, **settings: Any) -> ModelConfig:
    """Sizes of the model that a state dict in the official layout was saved from.

    Args:
        vision_heads: Attention heads of the image encoder, which no tensor tells; ``text_heads`` alike.
        settings: Fields of `ModelConfig` that are no sizes: ``momentum``, ``temperature``, ``official_quirks``, and
            ``queue_size`` and ``projection`` where the layout has neither.

    Raises:
        CheckpointError: If a tensor that tells a size is missing.
    """
    sizes = sizes_of(state)
    vision = {name.removeprefix("vision."): sizes.pop(name) for name in [*sizes] if name.startswith("vision.")}
    text = {name.removeprefix("text."): sizes.pop(name) for name in [*sizes] if name.startswith("text.")}
    return ModelConfig(
        vision=VisionConfig(**vision, heads=vision_heads, drop_path=0.0),
        text=TextConfig(**text, heads=text_heads, dropout=0.1),
        **{**settings, **sizes},
    )
