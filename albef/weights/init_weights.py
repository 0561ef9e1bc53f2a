"""Initialization from pretrained encoders: a ViT and a BERT (paper section 3.1).

The first layers of the BERT become the text encoder and the others the fusion encoder, whose cross-attention keeps its
random initialization. Embeddings and, if present, the MLM head are also loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from albef.config import Config, ConfigError, InitConfig
from albef.models.albef import ALBEF
from albef.models.vision import resize_positions
from albef.weights.official import CheckpointError, official_names
from albef.weights.pretrained_weights import PretrainedWeights, local_files, read_bert, read_vit


def initialize(model: ALBEF, config: Config) -> list[str]:
    """Initialize the student from the encoders in ``config.init``, and sync the teacher.

    Returns:
        Names of the student's tensors that were not loaded.

    Raises:
        CheckpointError: If pretrained weights cannot be read or do not match the model.
        ConfigError: If pretrained weights are incompatible with other parameters.
    """
    init = config.init
    loaded: dict[str, Tensor] = {}
    if init is not None and init.vision is not None:
        loaded |= _vision_weights(model, init.vision)
    if init is not None and init.text is not None:
        if config.tokenizer.kind != "bert":
            raise ConfigError(
                f"tokenizer.kind: {config.tokenizer.kind}, expected bert, because the embeddings of init.text "
                f"({init.text}) are indexed by its own vocabulary"
            )
        loaded |= _text_weights(model, init.text)
    model.load_state_dict(loaded, strict=False)
    if model.architecture.teacher:
        model.sync_teacher()
    return [name for name in model.state_dict() if name.startswith("student.") and name not in loaded]


def files(init: InitConfig) -> list[Path]:
    """Return the local files that pretrained weights are read from."""
    return [file for source in (init.vision, init.text) if source is not None for file in local_files(source)]


def _vision_weights(model: ALBEF, source: str) -> dict[str, Tensor]:
    """Return the weights of the image encoder from a ViT.

    Position embeddings of another image size are interpolated.
    """
    config = model.config
    if config.vision.stem != "patch":
        raise ConfigError(
            f"init.vision: {source} needs a patch embedding, but model.vision.stem is {config.vision.stem}, expected "
            "patch"
        )
    pretrained = read_vit(source)
    vision = config.vision
    sizes = {
        "patch_size": ("model.patch_size", config.patch_size),
        "width": ("model.vision.width", vision.width),
        "depth": ("model.vision.depth", vision.depth),
        "heads": ("model.vision.heads", vision.heads),
    }
    _check_sizes("init.vision", pretrained, sizes)
    expected = {name: value for name, value in model.state_dict().items() if name.startswith("student.vision.")}
    loaded = _convert(model, pretrained, expected, "init.vision")
    used = {n for name in expected for n in _pretrained_names(model, name)}
    if unexpected := sorted(name for name in pretrained.tensors if name not in used):
        raise CheckpointError(
            f"init.vision: {source} has tensors {', '.join(unexpected[:3])}, which the image encoder does not have"
        )
    return loaded


def _text_weights(model: ALBEF, source: str) -> dict[str, Tensor]:
    """Return the weights of text encoder, fusion encoder and MLM head.

    The cross-attention of the fusion encoder is not included.
    """
    text, pretrained = model.config.text, read_bert(source)
    sizes = {
        "vocabulary": ("the tokenizer's vocabulary", model.vocab_size),
        "width": ("model.text.width", text.width),
        "layers": ("model.text.layers + model.text.fusion_layers", text.layers + text.fusion_layers),
        "heads": ("model.text.heads", text.heads),
        "ffn": ("model.text.ffn", text.ffn),
        "max_positions": ("model.text.max_positions", text.max_positions),
    }
    _check_sizes("init.text", pretrained, sizes)
    prefixes = ["student.text.", "student.fusion."]
    if any(name.startswith("cls.predictions.transform.") for name in pretrained.tensors):
        prefixes.append("student.mlm_head.")
    expected = {name: value for name, value in model.state_dict().items() if name.startswith(tuple(prefixes))}
    return _convert(model, pretrained, {n: v for n, v in expected.items() if ".cross_attention." not in n}, "init.text")


def _check_sizes(where: str, pretrained: PretrainedWeights, sizes: Mapping[str, tuple[str, int]]) -> None:
    """Raise a CheckpointError that lists every size that differs."""
    mismatches = [
        f"{name} is {size} and {pretrained.sizes[key]} in {pretrained.source}"
        for key, (name, size) in sizes.items()
        if pretrained.sizes.get(key, size) != size
    ]
    if mismatches:
        raise CheckpointError(f"{where}: {'; '.join(mismatches)}")


def _convert(
    model: ALBEF, pretrained: PretrainedWeights, expected: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Return the pretrained tensors under the names of ``expected``."""
    loaded: dict[str, Tensor] = {}
    for name, value in expected.items():
        names = _pretrained_names(model, name)
        if missing := [n for n in names if n not in pretrained.tensors]:
            raise CheckpointError(f"{where}: {pretrained.source} has no tensor {missing[0]}, which the model needs")
        rows = [pretrained.tensors[n] for n in names]
        try:
            tensor = torch.cat(rows) if len(rows) > 1 else rows[0]
            if name.endswith("vit.pos_embed"):
                tensor = resize_positions(tensor, value.shape[1])
        except (RuntimeError, ValueError, IndexError) as error:
            raise CheckpointError(f"{where}: {names[0]} of {pretrained.source}: {error}") from error
        if tensor.shape != value.shape:
            raise CheckpointError(
                f"{where}: {names[0]} of {pretrained.source} converts to shape {tuple(tensor.shape)}, expected "
                f"{tuple(value.shape)} for {name}"
            )
        loaded[name] = tensor.to(value.dtype)
    return loaded


def _pretrained_names(model: ALBEF, name: str) -> list[str]:
    """Return the timm or transformers names of the tensors that form ``name``.

    They are the official names without the prefix of the encoder.
    """
    names = official_names(name, model.config.text.layers, model.architecture)
    return [n.removeprefix("visual_encoder.").removeprefix("text_encoder.").removeprefix("bert.") for n in names]
