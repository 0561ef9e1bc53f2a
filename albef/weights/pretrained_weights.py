"""Pretrained ViTs of timm and BERTs of transformers, read weights-only.

Sizes are inferred from tensor shapes. The number of attention heads and the activation do not show there; they are read
from ``config.json`` if the weights come with one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from albef.weights.official import CheckpointError, read_weights

_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.pth")
_VIT_HEADS = re.compile(r"(head|head_dist|pre_logits)\.")
_BERT_PARTS = ("embeddings.", "encoder.layer.", "cls.predictions.")
_OLD_NORM = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights of a pretrained network.

    Attributes:
        source: Name of the weights in error messages.
        tensors: Tensors by their names in timm or transformers.
        sizes: Known model dimensions.
    """

    source: str
    tensors: Mapping[str, Tensor]
    sizes: Mapping[str, int]


def read_vit(source: str) -> PretrainedWeights:
    """Read the weights of a vision transformer.

    Args:
        source: ``timm:NAME`` of a pretrained timm model, or a folder or file of weights with timm's tensor names.

    Raises:
        CheckpointError: If the weights cannot be read or are not of a vision transformer.
    """
    if source.startswith("timm:"):
        vit = _timm(source, source.removeprefix("timm:"), pretrained=True)
        heads, state = _heads(source, vit), vit.state_dict()
    else:
        file = _local(source)
        if file is None:
            raise CheckpointError(f"{source}: no such file or folder; write timm:NAME for a model of timm")
        heads, state = _configured_heads(source, file.with_name("config.json")), _read(file)
    state = {name: tensor for name, tensor in state.items() if not _VIT_HEADS.match(name)}
    patch = state.get("patch_embed.proj.weight")
    if patch is None or patch.ndim != 4:
        raise CheckpointError(
            f"{source}: no 4-dimensional tensor patch_embed.proj.weight, expected a vision transformer of timm"
        )
    sizes = {"width": patch.shape[0], "patch_size": patch.shape[2], "depth": _count(r"blocks\.(\d+)\.", state), **heads}
    return PretrainedWeights(source, state, sizes)


def read_bert(source: str) -> PretrainedWeights:
    """Read the weights of a BERT, including its MLM head if present.

    Args:
        source: Folder or file of weights with transformers' tensor names, or a model name on the Hugging Face Hub.

    Raises:
        CheckpointError: If the weights cannot be read or are not of a BERT.
    """
    file = _local(source)
    config = file.with_name("config.json") if file is not None else _hub(source, "config.json")
    if file is None:
        file = next((f for name in _WEIGHTS[:2] if (f := _hub(source, name)) is not None), None)
    if file is None:
        raise CheckpointError(f"{source}: no {' or '.join(_WEIGHTS[:2])} on the hub")
    state: dict[str, Tensor] = {}
    for name, tensor in _read(file).items():
        for old, new in _OLD_NORM.items():
            name = name.replace(old, new)
        name = name.removeprefix("bert.")
        if name.startswith(_BERT_PARTS) and not name.endswith("position_ids"):
            state[name] = tensor
    settings = _read_json(source, config)
    for key, expected in (("model_type", "bert"), ("hidden_act", "gelu")):
        if (actual := settings.get(key, expected)) != expected:
            raise CheckpointError(f"{source}: {key} is {actual!r} in its config.json, expected {expected!r}")
    try:
        words, positions = (state[f"embeddings.{k}_embeddings.weight"] for k in ("word", "position"))
        sizes = {
            "vocabulary": words.shape[0],
            "width": words.shape[1],
            "max_positions": positions.shape[0],
            "layers": _count(r"encoder\.layer\.(\d+)\.", state),
            "ffn": state["encoder.layer.0.intermediate.dense.bias"].shape[0],
        }
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"{source}: expected a BERT of transformers, but a required tensor is missing or not a matrix ({error})"
        ) from error
    if "num_attention_heads" in settings:
        sizes["heads"] = int(settings["num_attention_heads"])
    bias = state.get("cls.predictions.decoder.bias")
    if bias is not None:
        state.setdefault("cls.predictions.bias", bias)
    output = state.get("cls.predictions.decoder.weight")
    if output is not None and not torch.equal(output, words):
        raise CheckpointError(
            f"{source}: cls.predictions.decoder.weight differs from the word embeddings, but ALBEF ties them"
        )
    return PretrainedWeights(source, state, sizes)


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


def _heads(source: str, vit: nn.Module) -> dict[str, int]:
    """Return the attention heads of a timm model, after checking its architecture.

    Raises:
        CheckpointError: If the model is not a VisionTransformer with GELU.
    """
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(vit, VisionTransformer):
        raise CheckpointError(f"{source}: architecture is a {type(vit).__name__}, expected a VisionTransformer of timm")
    block: Any = vit.blocks[0]
    if not isinstance(block.mlp.act, nn.GELU):
        raise CheckpointError(f"{source}: activation is {type(block.mlp.act).__name__}, expected GELU")
    return {"heads": int(block.attn.num_heads)}


def _configured_heads(source: str, config: Path) -> dict[str, int]:
    """Return the attention heads from a timm ``config.json``, if stated."""
    settings = _read_json(source, config)
    if "architecture" not in settings:
        return {}
    with torch.device("meta"):
        return _heads(source, _timm(source, settings["architecture"], False, **(settings.get("model_args") or {})))
