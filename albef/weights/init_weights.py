"""Initialisation from pretrained parts (paper section 3.1): a timm ViT, and a BERT cut in two.

The first layers of a BERT become the text encoder, the others the fusion encoder, whose cross-attention stays as
built; embeddings and, where the BERT has one, the MLM head come along.
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
from albef.weights.pretrained_weights import Part, local_files, read_bert, read_vit


def initialise(model: ALBEF, config: Config) -> list[str]:
    """Start the student from the parts that ``config.init`` names, and the teacher as its copy.

    Returns:
        Names of the student's tensors that stay as built.

    Raises:
        CheckpointError: If a part cannot be read or does not fit the model.
        ConfigError: If the parameters rule a part out.
    """
    init = config.init
    filled: dict[str, Tensor] = {}
    if init is not None and init.vision is not None:
        filled |= _vision(model, init.vision)
    if init is not None and init.text is not None:
        if config.tokenizer.kind != "bert":
            raise ConfigError(
                f"tokenizer.kind: {config.tokenizer.kind}, expected bert: init.text knows words by the ids of its "
                "own vocabulary"
            )
        filled |= _text(model, init.text)
    model.load_state_dict(filled, strict=False)
    if model.architecture.teacher:
        model.sync_teacher()
    return [name for name in model.state_dict() if name.startswith("student.") and name not in filled]


def files(init: InitConfig) -> list[Path]:
    """Local files that the parts are read from."""
    return [file for source in (init.vision, init.text) if source is not None for file in local_files(source)]


def _vision(model: ALBEF, source: str) -> dict[str, Tensor]:
    """The image encoder from a ViT; position embeddings of another image size are interpolated."""
    config = model.config
    if config.vision.stem != "patch":
        raise ConfigError(
            f"init.vision: {source} cuts patches by one projection, but model.vision.stem is "
            f"{config.vision.stem}, expected patch"
        )
    part = read_vit(source)
    vision = config.vision
    wanted = {
        "patch_size": ("model.patch_size", config.patch_size),
        "width": ("model.vision.width", vision.width),
        "depth": ("model.vision.depth", vision.depth),
        "heads": ("model.vision.heads", vision.heads),
    }
    _check_sizes("init.vision", part, wanted)
    own = {name: value for name, value in model.state_dict().items() if name.startswith("student.vision.")}
    filled = _take(model, part, own, "init.vision")
    known = {n for name in own for n in _names(model, name)}
    if strange := sorted(name for name in part.tensors if name not in known):
        raise CheckpointError(
            f"init.vision: {source} has {', '.join(strange[:3])}, for which the image encoder has no place"
        )
    return filled


def _text(model: ALBEF, source: str) -> dict[str, Tensor]:
    """The text encoder, self-attention and feed-forward of the fusion encoder, and the MLM head, from a BERT."""
    text, part = model.config.text, read_bert(source)
    wanted = {
        "vocabulary": ("the tokenizer's vocabulary", model.vocab_size),
        "width": ("model.text.width", text.width),
        "layers": ("model.text.layers + model.text.fusion_layers", text.layers + text.fusion_layers),
        "heads": ("model.text.heads", text.heads),
        "ffn": ("model.text.ffn", text.ffn),
        "max_positions": ("model.text.max_positions", text.max_positions),
    }
    _check_sizes("init.text", part, wanted)
    rooms = ["student.text.", "student.fusion."]
    if any(name.startswith("cls.predictions.transform.") for name in part.tensors):
        rooms.append("student.mlm_head.")
    own = {name: value for name, value in model.state_dict().items() if name.startswith(tuple(rooms))}
    return _take(model, part, {n: v for n, v in own.items() if ".cross_attention." not in n}, "init.text")


def _check_sizes(where: str, part: Part, wanted: Mapping[str, tuple[str, int]]) -> None:
    """Every size that differs, in one message."""
    other = [
        f"{name} is {size} and {part.sizes[key]} in {part.source}"
        for key, (name, size) in wanted.items()
        if part.sizes.get(key, size) != size
    ]
    if other:
        raise CheckpointError(f"{where}: {'; '.join(other)}")


def _take(model: ALBEF, part: Part, own: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Tensors of a part by our names, one for each in ``own``."""
    filled: dict[str, Tensor] = {}
    for name, value in own.items():
        names = _names(model, name)
        if absent := [n for n in names if n not in part.tensors]:
            raise CheckpointError(f"{where}: {part.source} has no {absent[0]}, which the model needs")
        rows = [part.tensors[n] for n in names]
        try:
            tensor = torch.cat(rows) if len(rows) > 1 else rows[0]
            if name.endswith("vit.pos_embed"):
                tensor = resize_positions(tensor, value.shape[1])
        except (RuntimeError, ValueError, IndexError) as error:
            raise CheckpointError(f"{where}: {names[0]} of {part.source}: {error}") from error
        if tensor.shape != value.shape:
            raise CheckpointError(
                f"{where}: {names[0]} of {part.source} makes {name} of shape {tuple(tensor.shape)}, expected "
                f"{tuple(value.shape)}"
            )
        filled[name] = tensor.to(value.dtype)
    return filled


def _names(model: ALBEF, name: str) -> list[str]:
    """What timm or transformers call the tensors that are ours called ``name``: the official names without rooms."""
    names = official_names(name, model.config.text.layers, model.architecture)
    return [n.removeprefix("visual_encoder.").removeprefix("text_encoder.").removeprefix("bert.") for n in names]
