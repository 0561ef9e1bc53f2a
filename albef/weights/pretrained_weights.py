"""Reading pretrained ViTs of timm and BERTs of transformers: tensors and sizes, weights-only.

What a network was built with shows in its tensors, all but the number of attention heads and the activation: these are
read where a configuration lies beside the weights.
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
class Part:
    """A pretrained network: its tensors by the names of its library, and its sizes as far as they are known."""

    source: str
    tensors: Mapping[str, Tensor]
    sizes: Mapping[str, int]


def read_vit(source: str) -> Part:
    """Read a vision transformer.

    Args:
        source: ``timm:NAME`` with pretrained weights that timm knows, or a folder or file of weights in timm's names.

    Raises:
        CheckpointError: If it cannot be read, or is no vision transformer.
    """
    if source.startswith("timm:"):
        vit = _timm(source, source.removeprefix("timm:"), pretrained=True)
        heads, state = _heads(source, vit), vit.state_dict()
    else:
        file = _local(source)
        if file is None:
            raise CheckpointError(f"{source}: no such file or folder; a model of timm is named timm:NAME")
        heads, state = _described_heads(source, file.with_name("config.json")), _read(file)
    state = {name: tensor for name, tensor in state.items() if not _VIT_HEADS.match(name)}
    patch = state.get("patch_embed.proj.weight")
    if patch is None or patch.ndim != 4:
        raise CheckpointError(f"{source}: no matrix patch_embed.proj.weight, expected a vision transformer of timm")
    sizes = {"width": patch.shape[0], "patch_size": patch.shape[2], "depth": _count(r"blocks\.(\d+)\.", state), **heads}
    return Part(source, state, sizes)


def read_bert(source: str) -> Part:
    """Read a BERT, with its MLM head if it has one.

    Args:
        source: Folder or file of weights under transformers' names, or a name on its hub.

    Raises:
        CheckpointError: If it cannot be read, or is no BERT.
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
    described = _json(source, config)
    for key, expected in (("model_type", "bert"), ("hidden_act", "gelu")):
        if (found := described.get(key, expected)) != expected:
            raise CheckpointError(f"{source}: {key} is {found!r} in its config.json, expected {expected!r}")
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
        raise CheckpointError(f"{source}: no matrix {error}, expected a BERT of transformers") from error
    if "num_attention_heads" in described:
        sizes["heads"] = int(described["num_attention_heads"])
    bias = state.get("cls.predictions.decoder.bias")
    if bias is not None:
        state.setdefault("cls.predictions.bias", bias)
    output = state.get("cls.predictions.decoder.weight")
    if output is not None and not torch.equal(output, words):
        raise CheckpointError(f"{source}: cls.predictions.decoder.weight is not the word embedding, as in ALBEF")
    return Part(source, state, sizes)


def local_files(source: str) -> list[Path]:
    """The file that a source names on this machine, if it does."""
    file = None if source.startswith("timm:") else _local(source)
    return [] if file is None else [file]


def _count(pattern: str, state: Mapping[str, Tensor]) -> int:
    return len({m[1] for name in state if (m := re.match(pattern, name))})


def _local(source: str) -> Path | None:
    path = Path(source).expanduser()
    if path.is_dir():
        file = next((path / name for name in _WEIGHTS if (path / name).is_file()), None)
        if file is None:
            raise CheckpointError(f"{source}: no weights in this folder, expected {' or '.join(_WEIGHTS)}")
        return file
    return path if path.is_file() else None


def _hub(source: str, name: str) -> Path | None:
    from transformers.utils import cached_file

    try:
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    except Exception as error:  # no network, no such model, no right to it: each with an error of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{source}: neither a local file or folder nor a model on the hub ({reason})") from error
    return None if found is None else Path(found)


def _read(file: Path) -> dict[str, Tensor]:
    """A state dict, bare or under "model" or "state_dict"."""
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


def _json(source: str, file: Path | None) -> dict[str, Any]:
    if file is None or not file.is_file():
        return {}
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source}: its config.json is no JSON ({error})") from error
    return data if isinstance(data, dict) else {}


def _timm(source: str, name: str, pretrained: bool, **arguments: Any) -> nn.Module:
    import timm

    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
    except Exception as error:  # unknown name, no weights, no network: each with an error of its own
        raise CheckpointError(f"{source}: cannot load {name} from timm ({error})") from error
    return model


def _heads(source: str, vit: nn.Module) -> dict[str, int]:
    """Attention heads of a timm model, which must compute as the image encoder does."""
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(vit, VisionTransformer):
        raise CheckpointError(f"{source}: a {type(vit).__name__}, expected a VisionTransformer of timm")
    block: Any = vit.blocks[0]
    if not isinstance(block.mlp.act, nn.GELU):
        raise CheckpointError(f"{source}: {type(block.mlp.act).__name__} in its layers, expected GELU")
    return {"heads": int(block.attn.num_heads)}


def _described_heads(source: str, config: Path) -> dict[str, int]:
    """The same of a folder in timm's format, whose configuration names the architecture."""
    described = _json(source, config)
    if "architecture" not in described:
        return {}
    with torch.device("meta"):
        return _heads(source, _timm(source, described["architecture"], False, **(described.get("model_args") or {})))
