"""The official checkpoint layout (salesforce/ALBEF), read into and written from our model.

One function, `official_names`, states the correspondence; both directions and the gradients of the parity tests
go through it. A tensor of ours may be several official ones, concatenated over their first dimension.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albef.models.albef import ALBEF
from albef.models.architecture import Architecture, architecture_of
from albef.models.queue import NO_ID
from albef.models.vision import resize_positions

_LAYER = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",),
    "attention.norm": ("attention.output.LayerNorm",),
    "cross_attention.query": ("crossattention.self.query",),
    "cross_attention.key_value": ("crossattention.self.key", "crossattention.self.value"),
    "cross_attention.out": ("crossattention.output.dense",),
    "cross_attention.norm": ("crossattention.output.LayerNorm",),
    "feed_forward.inner": ("intermediate.dense",),
    "feed_forward.out": ("output.dense",),
    "feed_forward.norm": ("output.LayerNorm",),
}
_EMBEDDINGS = {
    "word": "word_embeddings",
    "position": "position_embeddings",
    "token_type": "token_type_embeddings",
    "norm": "LayerNorm",
}
_HEAD = {"dense": "transform.dense", "norm": "transform.LayerNorm"}
_PLAIN = {
    "temperature": "temp",
    "queue.image": "image_queue",
    "queue.text": "text_queue",
    "queue.ids": "idx_queue",
    "queue._extra_state": "queue_ptr",
}
# Names that carry nothing of their own: constant position indices and the tied output matrix of the MLM head.
_REDUNDANT = re.compile(r"position_ids$|cls\.predictions\.decoder\.(weight|bias)$")
# Prefixes of what predicts words: encoder and decoder, student's and teacher's.
_WORD_MODELS = ("text_encoder.", "text_encoder_m.", "text_decoder.", "text_decoder_m.")
_QUEUE = ("queue.image", "queue.text", "queue.ids", "queue._extra_state")
# What a model can do without: its teacher, for it starts as the student, and its queue, for it fills up.
_SPARED = re.compile(r"\w+_m\.|(image|text|idx)_queue$|queue_ptr$")
_POSITIONS = re.compile(r"visual_encoder(_m)?\.pos_embed")
_KEY_VALUE = re.compile(r"(.+\.encoder\.layer\.)(\d+)(\.crossattention\.self\.(?:key|value)\..+)")
_SHOWN = 6  # names in one message


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit the model."""


@dataclass(frozen=True)
class LoadReport:
    """Official names that a checkpoint lacked, in vain or as they could be done without, and that it held beyond."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


def official_names(name: str, text_layers: int, architecture: Architecture) -> list[str]:
    """Official names whose tensors, concatenated, are ours called ``name``.

    Args:
        name: Name in `ALBEF.state_dict`.
        text_layers: Layers of the text encoder; the fusion encoder's follow in the official numbering.
        layout: Of the model; the text encoder has an MLM head or not, and a prefix more with it.
    """
    if name in _PLAIN:
        return [_PLAIN[name]]
    tower, _, rest = name.partition(".")
    if tower not in ("student", "teacher"):
        return [name]
    suffix = "_m" if tower == "teacher" else ""
    room, _, rest = rest.partition(".")
    encoder, decoder = f"text_encoder{suffix}.", f"text_decoder{suffix}."
    if room == "vision":
        return [f"visual_encoder{suffix}." + rest.removeprefix("vit.")]
    if room in ("vision_proj", "text_proj"):
        return [f"{room}{suffix}.{rest}"]
    if room == "cls_head":
        return [f"{'ta_head' if architecture.head == 'linear' else 'cls_head'}{suffix}.{rest}"]
    if room == "mlm_head":
        return [_head_name(encoder, rest)]
    if room == "decoder":
        room, _, rest = rest.partition(".")
        if room == "head":
            return [_head_name(decoder, rest)]
        return _bert_names(f"{decoder}bert.", f"{room}.{rest}".split("."), 0)
    return _bert_names(
        encoder + ("bert." if architecture.mlm else ""), rest.split("."), text_layers if room == "fusion" else 0
    )


def _head_name(prefix: str, rest: str) -> str:
    part, _, leaf = rest.partition(".")
    return f"{prefix}cls.predictions." + (f"{_HEAD[part]}.{leaf}" if leaf else part)


def _bert_names(prefix: str, parts: list[str], first: int) -> list[str]:
    if parts[0] == "embeddings":
        return [f"{prefix}embeddings.{_EMBEDDINGS[parts[1]]}.{parts[2]}"]
    layer = f"{prefix}encoder.layer.{int(parts[1]) + first}."
    return [f"{layer}{part}.{parts[-1]}" for part in _LAYER[".".join(parts[2:-1])]]


def to_official(
    tensors: Mapping[str, Tensor], text_layers: int, task: str, student_only: bool = False
) -> dict[str, Tensor]:
    """Rename tensors of `ALBEF` (weights, or gradients by name) to the official layout.

    Args:
        tensors: By our names.
        text_layers: Layers of the text encoder.
        task: Whose layout the model has.
        student_only: Leave out the teacher and the queue.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if student_only and (name.startswith("teacher.") or name in _QUEUE):
            continue
        if name == "queue.ids" and architecture_of(task).mlm:
            continue  # pretraining knows no ids, and its layout has no place for them
        names = official_names(name, text_layers, architecture_of(task))
        if name in ("queue.image", "queue.text"):
            tensor = tensor.T
        elif name in ("queue.ids", "queue._extra_state"):
            tensor = tensor.reshape(1, -1) if name == "queue.ids" else tensor.reshape(1)
        for official, part in zip(names, tensor.chunk(len(names)) if len(names) > 1 else [tensor], strict=True):
            result[official] = part.clone().contiguous()
    for encoder in _WORD_MODELS:
        head, word = f"{encoder}cls.predictions.", f"{encoder}bert.embeddings.word_embeddings.weight"
        if head + "bias" in result and word in result:
            result[head + "decoder.weight"], result[head + "decoder.bias"] = result[word], result[head + "bias"]
    return result


def load_official(model: ALBEF, state: Mapping[str, Tensor], source: str = "checkpoint") -> LoadReport:
    """Fill ``model`` from a state dict in the official layout of the model's task.

    Position embeddings of another image size are interpolated. What is missing of the teacher is the student's. A
    queue of another size, or none, leaves the model's own; ids that a pretraining queue lacks are unknown and never
    count as positives, as in the official fine-tuning.

    Args:
        source: Name in error messages.

    Raises:
        CheckpointError: If tensors of the student are missing or of another shape, or tensors that the model shares
            differ.
    """
    own = model.state_dict()
    missing, fitting = _compare(model, own, state, source)
    _check_shared(model.architecture, state, source)
    filled: dict[str, Tensor] = {}
    used = set[str]()
    for name, value in own.items():
        names = official_names(name, model.config.text.layers, model.architecture)
        if all(n in fitting for n in names):
            filled[name] = _assemble(name, [state[n] for n in names], value)
            used.update(names)
        elif name.startswith("teacher."):
            filled[name] = filled["student." + name.removeprefix("teacher.")]
    if not all(name in filled for name in ("queue.image", "queue.text")):
        filled = {k: v for k, v in filled.items() if k not in _QUEUE}
    elif "queue.ids" not in filled:
        filled["queue.ids"] = torch.full_like(own["queue.ids"], NO_ID)
    model.load_state_dict(filled, strict=False)
    unexpected = [key for key in state if key not in used and key not in missing and not _REDUNDANT.search(key)]
    return LoadReport(missing, unexpected)


def _compare(
    model: ALBEF, own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str
) -> tuple[list[str], set[str]]:
    """Official names that are missing, or unfit where that is no harm, and names of what fits the model."""
    sketch = {name: torch.empty_like(value, device="meta") for name, value in own.items()}
    expected = to_official(sketch, model.config.text.layers, model.task)
    expected = {name: value for name, value in expected.items() if not _REDUNDANT.search(name)}
    has_teacher = any(re.match(r"\w+_m\.", name) for name in state)
    lacking, wrong, missing, fitting = [], [], [], set()
    for name, value in expected.items():
        if name not in state:
            if not _SPARED.match(name):
                lacking.append(name)
            elif has_teacher or "_m." not in name:
                missing.append(name)
        elif state[name].shape == value.shape or (_POSITIONS.fullmatch(name) and _resizable(state[name], value)):
            fitting.add(name)
        elif name.endswith(("_queue", "queue_ptr")):
            missing.append(name)
        else:
            wrong.append(f"{name} has shape {tuple(state[name].shape)}, expected {tuple(value.shape)}")
    if lacking:
        raise CheckpointError(f"{source}: no tensor {_some(lacking)}, which a model for {model.task} needs")
    if wrong:
        raise CheckpointError(f"{source}: {_some(wrong, '; ')}")
    return missing, fitting


def _some(items: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return separator.join(items[:_SHOWN]) + more


def _resizable(positions: Tensor, wanted: Tensor) -> bool:
    """Whether position embeddings are (1, side x side + 1, W) with W as wanted."""
    if positions.ndim != 3 or positions.shape[0] != 1 or positions.shape[2] != wanted.shape[2]:
        return False
    patches = positions.shape[1] - 1
    return patches > 0 and round(patches**0.5) ** 2 == patches


def _assemble(name: str, parts: list[Tensor], value: Tensor) -> Tensor:
    tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
    if name in ("queue.image", "queue.text"):
        tensor = tensor.T
    elif name in ("queue.ids", "queue._extra_state"):
        tensor = tensor.reshape(value.shape)
    elif name.endswith("vit.pos_embed"):
        tensor = resize_positions(tensor, value.shape[1])
    return tensor.to(value.dtype)


def _check_shared(architecture: Architecture, state: Mapping[str, Tensor], source: str) -> None:
    """The MLM output matrix is the word embedding's; the layers of a pair have one projection of keys and values."""
    pairs = [(f"{m}cls.predictions.decoder.weight", f"{m}bert.embeddings.word_embeddings.weight") for m in _WORD_MODELS]
    if architecture.images == 2:
        found = [key for key in map(_KEY_VALUE.fullmatch, state) if key]
        first = min((int(key[2]) for key in found), default=0)
        twins = [key for key in found if (int(key[2]) - first) % 2]
        pairs += [(key[0], f"{key[1]}{int(key[2]) - 1}{key[3]}") for key in twins]
    for one, other in pairs:
        if one in state and other in state and not torch.equal(state[one], state[other]):
            raise CheckpointError(f"{source}: {one} differs from {other}, which are one tensor in this model")


def read_official(path: str | Path) -> dict[str, Tensor]:
    """Read a published checkpoint: a state dict, bare or wrapped in ``{"model": ...}``; weights only.

    The prefix ``module.`` of a distributed model is taken off, and ``bert.`` where there is no MLM head beside it.

    Raises:
        CheckpointError: If the file cannot be read without running foreign code or holds no state dict.
    """
    data = read_weights(path)
    state = data["model"] if isinstance(data, dict) and isinstance(data.get("model"), dict) else data
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path}: expected a state dict or a mapping with one under 'model'")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            kind = type(value).__name__
            raise CheckpointError(f"{path}: expected a state dict, bare or under 'model'; {key!r} is of type {kind}")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if not any(key.startswith("text_encoder.cls.") for key in state):
        state = {re.sub(r"^(text_encoder(_m)?\.)bert\.", r"\1", key): value for key, value in state.items()}
    return state


def read_weights(path: str | Path) -> Any:
    """Load a torch file weights-only onto the CPU. Of classes only `argparse.Namespace` is let in: plain data.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds more than plain data and tensors.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the checkpoint ({error.strerror or error})") from error
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path}: not a weights-only checkpoint: it holds objects of {found[1]}, whose loading could run any "
                "code. If you trust its source, save its tensors alone and read that file: "
                "torch.save({'model': torch.load(FILE, weights_only=False)['model']}, NEW)"
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: not a weights-only checkpoint ({reason})") from error


def infer_task(state: Mapping[str, Tensor]) -> str:
    """The task whose layout a state dict in the official format has; grounding's is that of retrieval.

    Raises:
        CheckpointError: If it is none of them.
    """
    if any(key.startswith("text_decoder.") for key in state):
        return "vqa"
    if "ta_head.weight" in state:
        return "text_assignment"
    if "cls_head.2.weight" in state:
        classes = next(iter(state["cls_head.2.weight"].shape), 0)
        for task in ("entailment", "nlvr2"):
            if architecture_of(task).classes == classes:
                return task
        raise CheckpointError(f"cls_head.2.weight: {classes} classes, expected 3 (entailment) or 2 (NLVR2)")
    if "itm_head.weight" not in state:
        raise CheckpointError(
            "no tensor itm_head.weight, cls_head.2.weight, ta_head.weight or text_decoder.*: not an official layout"
        )
    return "pretrain" if any(key.startswith("text_encoder.cls.") for key in state) else "retrieval"
