"""Pretrained image encoders of timm and text encoders of transformers, read weights-only.

Sizes are inferred from tensor shapes. The number of attention heads and the activation do not show there; they are read
from ``config.json`` if the weights come with one.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from albef.models.encoders import TextFamily, first_position, text_family
from albef.weights.official import CheckpointError, read_weights

_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.pth")
_VIT_HEADS = re.compile(r"(head|head_dist|pre_logits)\.")
_BERT_PARTS = ("embeddings.", "encoder.layer.", "cls.predictions.")
_POSITIONS = "embeddings.position_embeddings.weight"
_TOKEN_TYPES = "embeddings.token_type_embeddings.weight"
_OLD_NORM = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights of a pretrained network.

    Attributes:
        source: Name of the weights in error messages.
        tensors: Tensors by their names in timm or transformers.
        sizes: Known model dimensions.
        ignored: Names of tensors that no encoder has, such as those of other heads.
    """

    source: str
    tensors: Mapping[str, Tensor]
    sizes: Mapping[str, float]
    ignored: tuple[str, ...] = ()


def read_vit(source: str) -> PretrainedWeights:
    """Read the weights of a plain vision transformer.

    Args:
        source: ``timm:NAME`` of a pretrained timm model, or a folder or file of weights with timm's tensor names.

    Raises:
        CheckpointError: If the weights cannot be read or are not of a vision transformer.
    """
    state, config = _read_image_encoder(source)
    patch = state.get("patch_embed.proj.weight")
    if patch is None or patch.ndim != 4:
        raise CheckpointError(
            f"{source}: no 4-dimensional tensor patch_embed.proj.weight, expected a vision transformer of timm"
        )
    sizes = {"width": patch.shape[0], "patch_size": patch.shape[2], "depth": _count(r"blocks\.(\d+)\.", state)}
    return _without_heads(source, state, {**sizes, **_configured_heads(source, config)})


def read_named_vit(source: str, vit: nn.Module) -> PretrainedWeights:
    """Read weights for a timm model; timm converts published layouts and other image sizes.

    Args:
        source: See `read_vit`; a file may also have the layout of the model's authors, if timm converts it.
        vit: Model of timm, possibly without data.

    Raises:
        CheckpointError: If the weights cannot be read or converted.
    """
    state, _ = _read_image_encoder(source)
    module = importlib.import_module(type(vit).__module__)
    try:
        state = module.checkpoint_filter_fn(state, vit)
    except Exception as error:  # tensors of another network: many exception types
        raise CheckpointError(
            f"{source}: timm cannot convert these weights to a {type(vit).__name__} ({type(error).__name__}: {error})"
        ) from error
    return _without_heads(source, state, {})


def _read_image_encoder(source: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dict of an image encoder, and timm's ``config.json`` or an empty mapping."""
    if source.startswith("timm:"):
        name = source.removeprefix("timm:")
        return dict(_timm(source, name, pretrained=True).state_dict()), {"architecture": name}
    file = _local(source)
    if file is None:
        raise CheckpointError(f"{source}: no such file or folder; write timm:NAME for a model of timm")
    return _read(file), _read_json(source, file.with_name("config.json"))


def _without_heads(source: str, state: Mapping[str, Tensor], sizes: Mapping[str, float]) -> PretrainedWeights:
    heads = tuple(name for name in state if _VIT_HEADS.match(name))
    return PretrainedWeights(source, {k: v for k, v in state.items() if k not in heads}, sizes, heads)


def read_bert(source: str) -> PretrainedWeights:
    """Read the weights of a BERT-like encoder as those of a BERT.

    They include the MLM head if present.

    Args:
        source: Folder or file of weights with transformers' tensor names, or a model name on the Hugging Face Hub.

    Raises:
        CheckpointError: If the weights cannot be read or are not of such an encoder; see `TEXT_FAMILIES`.
    """
    file = _local(source)
    config = file.with_name("config.json") if file is not None else _hub(source, "config.json")
    if file is None:
        file = next((f for name in _WEIGHTS[:2] if (f := _hub(source, name)) is not None), None)
    if file is None:
        raise CheckpointError(f"{source}: no {' or '.join(_WEIGHTS[:2])} on the hub")
    settings = _read_json(source, config)
    try:
        family, first = text_family(settings), first_position(settings)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error
    state, ignored = _as_bert(_read(file), family)
    try:
        if state[_TOKEN_TYPES].shape[0] == 1:  # only the first type is ever used
            state[_TOKEN_TYPES] = state[_TOKEN_TYPES].expand(2, -1)
        state[_POSITIONS] = state[_POSITIONS][first:]
        words = state["embeddings.word_embeddings.weight"]
        sizes: dict[str, float] = {
            "vocabulary": words.shape[0],
            "width": words.shape[1],
            "max_positions": state[_POSITIONS].shape[0],
            "layers": _count(r"encoder\.layer\.(\d+)\.", state),
            "ffn": state["encoder.layer.0.intermediate.dense.bias"].shape[0],
        }
    except (KeyError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"{source}: expected a BERT-like encoder of transformers, but a required tensor is missing or not a matrix "
            f"({error})"
        ) from error
    if "num_attention_heads" in settings:
        sizes["heads"] = int(settings["num_attention_heads"])
    if "layer_norm_eps" in settings:
        sizes["norm_eps"] = float(settings["layer_norm_eps"])
    bias = state.get("cls.predictions.decoder.bias")
    if bias is not None:
        state.setdefault("cls.predictions.bias", bias)
    output = state.get("cls.predictions.decoder.weight")
    if output is not None and not torch.equal(output, words):
        raise CheckpointError(
            f"{source}: cls.predictions.decoder.weight differs from the word embeddings, but ALBEF ties them"
        )
    return PretrainedWeights(source, state, sizes, tuple(ignored))


def _as_bert(state: Mapping[str, Tensor], family: TextFamily) -> tuple[dict[str, Tensor], list[str]]:
    """Return tensors by their names in BERT, and the names of the others."""
    result: dict[str, Tensor] = {}
    ignored = []
    for key, tensor in state.items():
        name = key
        for old, new in _OLD_NORM.items():
            name = name.replace(old, new)
        name = name.removeprefix(family.prefix)
        for old, new in family.head.items():
            name = new + name.removeprefix(old) if name.startswith(old) else name
        if name.endswith("position_ids"):
            continue
        if name.startswith(_BERT_PARTS):
            result[name] = tensor
        else:
            ignored.append(key)
    return result, ignored


def kind_of(source: str) -> Literal["vision", "text"]:
    """Infer from tensor names which encoder weights belong to.

    A name on the hub is that of a text encoder.

    Raises:
        CheckpointError: If a local file cannot be read or its names tell neither.
    """
    if source.startswith("timm:"):
        return "vision"
    file = _local(source)
    if file is None:
        return "text"
    names = _read(file).keys()
    if any(name.endswith("word_embeddings.weight") for name in names):
        return "text"
    if "cls_token" in names or any(name.endswith("patch_embed.proj.weight") for name in names):
        return "vision"
    raise CheckpointError(
        f"{source}: neither patch_embed.proj.weight of an image encoder nor word_embeddings.weight of a text encoder; "
        "name its kind with --kind"
    )


def local_files(source: str) -> list[Path]:
    """Return the local weights file of a source, if any."""
    file = None if source.startswith("timm:") else _local(source)
    return [] if file is None else [file]


def _count(pattern: str, state: Mapping[str, Tensor]) -> int:
    return len({m[1] for name in state if (m := re.match(pattern, name))})


def _local(source: str) -> Path | None:
    path = Path(source).expanduser()
    if path.is_dir():
        file = next((path / name for name in _WEIGHTS if (path / name).is_file()), None)
        if file is None:
            raise CheckpointError(f"{source}: no weights in this folder, expected a file {' or '.join(_WEIGHTS)}")
        return file
    return path if path.is_file() else None


def _hub(source: str, name: str) -> Path | None:
    from transformers.utils import cached_file

    try:
        path = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    except Exception as error:  # no network, unknown model, no access: many exception types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{source}: neither a local file or folder nor a model on the hub ({reason})") from error
    return None if path is None else Path(path)


def _read(file: Path) -> dict[str, Tensor]:
    """Read a state dict, bare or under "model" or "state_dict"."""
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            data: Any = load_file(file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: not a safetensors file ({error})") from error
    else:
        data = read_weights(file)
    for key in ("model", "state_dict"):
        if isinstance(data, dict) and isinstance(data.get(key), dict):
            data = data[key]
    if not isinstance(data, dict) or not all(isinstance(value, Tensor) for value in data.values()):
        raise CheckpointError(f"{file}: expected a state dict, bare or under 'model' or 'state_dict'")
    return {str(key).removeprefix("module."): value for key, value in data.items()}


def _read_json(source: str, file: Path | None) -> dict[str, Any]:
    if file is None or not file.is_file():
        return {}
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source}: its config.json is not valid JSON ({error})") from error
    return data if isinstance(data, dict) else {}


def _timm(source: str, name: str, pretrained: bool, **arguments: Any) -> nn.Module:
    import timm

    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
    except Exception as error:  # unknown name, no weights, no network: many exception types
        raise CheckpointError(f"{source}: cannot load {name} from timm ({error})") from error
    return model


def _configured_heads(source: str, settings: Mapping[str, Any]) -> dict[str, int]:
    """Return the attention heads of the timm model in ``config.json``, if there is one.

    Raises:
        CheckpointError: If the model is not a VisionTransformer with GELU.
    """
    from timm.models.vision_transformer import VisionTransformer

    if "architecture" not in settings:
        return {}
    with torch.device("meta"):
        vit: Any = _timm(source, settings["architecture"], False, **(settings.get("model_args") or {}))
    if not isinstance(vit, VisionTransformer):
        raise CheckpointError(f"{source}: architecture is a {type(vit).__name__}, expected a VisionTransformer of timm")
    block = vit.blocks[0]
    if not isinstance(block.mlp.act, nn.GELU):
        raise CheckpointError(f"{source}: activation is {type(block.mlp.act).__name__}, expected GELU")
    return {"heads": int(block.attn.num_heads)}
