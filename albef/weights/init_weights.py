"""Initialization from pretrained encoders of images and texts (paper section 3.1).

The first layers of a BERT become the text encoder and the others the fusion encoder, whose cross-attention keeps its
random initialization. Embeddings and, if present, the MLM head are also loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from albef.config import Config, ConfigError, InitConfig
from albef.models.albef import ALBEF
from albef.models.vision import resize_positions
from albef.weights.official import CheckpointError, official_names
from albef.weights.pretrained_weights import PretrainedWeights, local_files, read_bert, read_named_vit, read_vit


@dataclass
class Fit:
    """Comparison of pretrained weights with the part of a model that they initialize.

    Attributes:
        pretrained: The weights.
        sizes: Descriptions of the sizes that differ.
        loaded: Tensors that fit, by their names in the model.
        missing: Names of the tensors that the weights lack.
        mismatched: Descriptions of the tensors of another shape.
        unused: Names of the tensors that the model lacks.
    """

    pretrained: PretrainedWeights
    sizes: list[str] = field(default_factory=list)
    loaded: dict[str, Tensor] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    @property
    def problem(self) -> str | None:
        """First reason why these weights do not initialize the model."""
        source = self.pretrained.source
        if self.sizes:
            return "; ".join(self.sizes)
        if self.missing:
            return f"{source} has no tensor {self.missing[0]}, which the model needs"
        if self.mismatched:
            return self.mismatched[0]
        if self.unused:
            return f"{source} has tensors {', '.join(self.unused[:3])}, which the model does not have"
        return None


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
        loaded |= _required("init.vision", fit_vision(model, init.vision))
    if init is not None and init.text is not None:
        if config.tokenizer.kind != "bert":
            raise ConfigError(
                f"tokenizer.kind: {config.tokenizer.kind}, expected bert, because the embeddings of init.text "
                f"({init.text}) are indexed by its own vocabulary"
            )
        loaded |= _required("init.text", fit_text(model, init.text))
    model.load_state_dict(loaded, strict=False)
    if model.architecture.teacher:
        model.sync_teacher()
    return [name for name in model.state_dict() if name.startswith("student.") and name not in loaded]


def files(init: InitConfig) -> list[Path]:
    """Return the local files that pretrained weights are read from."""
    return [file for source in (init.vision, init.text) if source is not None for file in local_files(source)]


def _required(where: str, fit: Fit) -> dict[str, Tensor]:
    """Return the tensors of weights that must fit completely."""
    if fit.problem is not None:
        raise CheckpointError(f"{where}: {fit.problem}")
    return fit.loaded


def fit_vision(model: ALBEF, source: str) -> Fit:
    """Compare the weights of an image encoder with the model's, which may be without data.

    Position embeddings of another image size are interpolated.

    Raises:
        CheckpointError: If the weights cannot be read.
        ConfigError: If the model has a conv stem.
    """
    config, vision = model.config, model.config.vision
    if vision.stem != "patch":
        raise ConfigError(
            f"init.vision: {source} needs a patch embedding, but model.vision.stem is {vision.stem}, expected patch"
        )
    pretrained = read_vit(source) if vision.name is None else read_named_vit(source, model.student.vision.vit)
    sizes: dict[str, tuple[str, float]] = {
        "patch_size": ("model.patch_size", config.patch_size),
        "width": ("model.vision.width", vision.width),
        "depth": ("model.vision.depth", vision.depth),
        "heads": ("model.vision.heads", vision.heads),
    }
    expected = {name: value for name, value in model.state_dict().items() if name.startswith("student.vision.")}
    fit = _fit(model, pretrained, expected, sizes)
    used = {n for name in expected for n in _pretrained_names(model, name)}
    fit.unused = sorted(name for name in pretrained.tensors if name not in used)
    return fit


def fit_text(model: ALBEF, source: str) -> Fit:
    """Compare the weights of a text encoder with the model's.

    They belong to text encoder, fusion encoder and MLM head; the cross-attention of the fusion encoder is not compared.
    The model may be without data.

    Raises:
        CheckpointError: If the weights cannot be read.
    """
    text, pretrained = model.config.text, read_bert(source)
    sizes: dict[str, tuple[str, float]] = {
        "vocabulary": ("the tokenizer's vocabulary", model.vocab_size),
        "width": ("model.text.width", text.width),
        "layers": ("model.text.layers + model.text.fusion_layers", text.layers + text.fusion_layers),
        "heads": ("model.text.heads", text.heads),
        "ffn": ("model.text.ffn", text.ffn),
        "max_positions": ("model.text.max_positions", text.max_positions),
        "norm_eps": ("model.text.norm_eps", text.layer_norm_eps),
    }
    prefixes = ["student.text.", "student.fusion."]
    if any(name.startswith("cls.predictions.transform.") for name in pretrained.tensors):
        prefixes.append("student.mlm_head.")
    expected = {name: value for name, value in model.state_dict().items() if name.startswith(tuple(prefixes))}
    return _fit(model, pretrained, {n: v for n, v in expected.items() if ".cross_attention." not in n}, sizes)


def _fit(
    model: ALBEF,
    pretrained: PretrainedWeights,
    expected: Mapping[str, Tensor],
    sizes: Mapping[str, tuple[str, float]],
) -> Fit:
    """Compare pretrained tensors with those of ``expected``, and known sizes with those of the model."""
    source = pretrained.source
    fit = Fit(pretrained)
    fit.sizes = [
        f"{name} is {size} and {pretrained.sizes[key]} in {source}"
        for key, (name, size) in sizes.items()
        if pretrained.sizes.get(key, size) != size
    ]
    for name, value in expected.items():
        names = _pretrained_names(model, name)
        if missing := [n for n in names if n not in pretrained.tensors]:
            fit.missing += missing
            continue
        rows = [pretrained.tensors[n] for n in names]
        try:
            tensor = torch.cat(rows) if len(rows) > 1 else rows[0]
            if name.endswith("vit.pos_embed"):
                tensor = resize_positions(tensor, value.shape[1], model.student.vision.position_prefix)
        except (RuntimeError, ValueError, IndexError) as error:
            fit.mismatched.append(f"{names[0]} of {source}: {error}")
            continue
        if tensor.shape == value.shape:
            fit.loaded[name] = tensor.to(value.dtype)
        else:
            fit.mismatched.append(
                f"{names[0]} of {source} converts to shape {tuple(tensor.shape)}, expected {tuple(value.shape)} for "
                f"{name}"
            )
    return fit


def _pretrained_names(model: ALBEF, name: str) -> list[str]:
    """Return the timm or transformers names of the tensors that form ``name``.

    They are the official names without the prefix of the encoder.
    """
    names = official_names(name, model.config.text.layers, model.architecture)
    return [n.removeprefix("visual_encoder.").removeprefix("text_encoder.").removeprefix("bert.") for n in names]
