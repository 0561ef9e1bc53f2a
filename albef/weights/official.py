"""Official checkpoints (salesforce/ALBEF): loading into our model, and conversion back.

`official_names` defines the mapping of tensor names for both directions and for the gradients of the parity tests. One
of our tensors may be the concatenation of several official ones along their first dimension.
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
from albef.models.architecture import Architecture
from albef.models.queue import NO_ID
from albef.models.vision import resize_positions
from albef.tasks import registry

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
# Redundant tensors: constant position indices and the tied output layer of the MLM head.
_REDUNDANT = re.compile(r"position_ids$|cls\.predictions\.decoder\.(weight|bias)$")
# Prefixes of modules with a word prediction head: encoder and decoder of student and teacher.
_WORD_MODELS = ("text_encoder.", "text_encoder_m.", "text_decoder.", "text_decoder_m.")
_QUEUE = ("queue.image", "queue.text", "queue.ids", "queue._extra_state")
# Optional tensors: the teacher can be copied from the student, and the queue is refilled during training.
_OPTIONAL = re.compile(r"\w+_m\.|(image|text|idx)_queue$|queue_ptr$")
_POSITIONS = re.compile(r"visual_encoder(_m)?\.pos_embed")
_KEY_VALUE = re.compile(r"(.+\.encoder\.layer\.)(\d+)(\.crossattention\.self\.(?:key|value)\..+)")
_MAX_SHOWN = 6  # items in an error message


class CheckpointError(ValueError):
    """Unreadable checkpoint, or one that does not match the model."""


@dataclass(frozen=True)
class LoadReport:
    """Result of loading an official checkpoint.

    Attributes:
        missing: Official names of optional tensors that the checkpoint lacks or has in another size.
        unexpected: Names in the checkpoint that the model does not use.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


def official_names(name: str, text_layers: int, architecture: Architecture) -> list[str]:
    """Return the official names of the tensors that concatenate to tensor ``name``.

    Args:
        name: Name in `ALBEF.state_dict`.
        text_layers: Layers of the text encoder; in the official numbering the fusion layers follow them.
        architecture: Architecture of the model; with an MLM head, the names of the text encoder have the prefix
            ``bert.``.
    """
    if name in _PLAIN:
        return [_PLAIN[name]]
    encoders, _, rest = name.partition(".")
    if encoders not in ("student", "teacher"):
        return [name]
    suffix = "_m" if encoders == "teacher" else ""
    module, _, rest = rest.partition(".")
    encoder, decoder = f"text_encoder{suffix}.", f"text_decoder{suffix}."
    if module == "vision":
        return [f"visual_encoder{suffix}." + rest.removeprefix("vit.")]
    if module in ("vision_proj", "text_proj"):
        return [f"{module}{suffix}.{rest}"]
    if module == "cls_head":
        return [f"{'ta_head' if architecture.head == 'linear' else 'cls_head'}{suffix}.{rest}"]
    if module == "mlm_head":
        return [_head_name(encoder, rest)]
    if module == "decoder":
        module, _, rest = rest.partition(".")
        if module == "head":
            return [_head_name(decoder, rest)]
        return _bert_names(f"{decoder}bert.", f"{module}.{rest}".split("."), 0)
    return _bert_names(
        encoder + ("bert." if architecture.mlm else ""), rest.split("."), text_layers if module == "fusion" else 0
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
    """Convert tensors of `ALBEF` (weights or gradients) to official names and shapes.

    Args:
        tensors: Tensors by their names in `ALBEF.state_dict`.
        text_layers: Layers of the text encoder.
        task: Task of the model.
        student_only: Omit the teacher and the queue.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if student_only and (name.startswith("teacher.") or name in _QUEUE):
            continue
        if name == "queue.ids" and registry.spec(task).architecture.mlm:
            continue  # official pretraining checkpoints have no image ids
        names = official_names(name, text_layers, registry.spec(task).architecture)
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
    """Load an official state dict of the model's task into ``model``; see `from_official`."""
    loaded, report = from_official(model, state, source)
    model.load_state_dict(loaded, strict=False)
    return report


def from_official(
    model: ALBEF, state: Mapping[str, Tensor], source: str = "checkpoint"
) -> tuple[dict[str, Tensor], LoadReport]:
    """Convert an official state dict to tensors of ``model``.

    The model has the task of the state dict and may be without data. Position embeddings of another image size are
    interpolated. Missing tensors of the teacher are copied from the student. If the queue is missing or has another
    size, the model keeps its own. The image ids that a pretraining queue lacks are set to unknown and never count as
    positives, as in the official fine-tuning.

    Args:
        source: Name of the checkpoint in error messages.

    Raises:
        CheckpointError: If tensors of the student are missing or have another shape, or if tensors differ that the
            model ties.
    """
    expected = model.state_dict()
    missing, usable = _compare(model, expected, state, source)
    _check_tied(model.architecture, state, source)
    loaded: dict[str, Tensor] = {}
    used = set[str]()
    for name, value in expected.items():
        names = official_names(name, model.config.text.layers, model.architecture)
        if all(n in usable for n in names):
            loaded[name] = _assemble(name, [state[n] for n in names], value, model.student.vision.position_prefix)
            used.update(names)
        elif name.startswith("teacher."):
            loaded[name] = loaded["student." + name.removeprefix("teacher.")]
    if not all(name in loaded for name in ("queue.image", "queue.text")):
        loaded = {k: v for k, v in loaded.items() if k not in _QUEUE}
    elif "queue.ids" not in loaded:
        loaded["queue.ids"] = torch.full_like(expected["queue.ids"], NO_ID)
    unexpected = [key for key in state if key not in used and key not in missing and not _REDUNDANT.search(key)]
    return loaded, LoadReport(missing, unexpected)


def _compare(
    model: ALBEF, parameters: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str
) -> tuple[list[str], set[str]]:
    """Compare a state dict with the model.

    Returns:
        Official names of optional tensors that are missing or have another size, and names of usable tensors.
    """
    shapes = {name: torch.empty_like(value, device="meta") for name, value in parameters.items()}
    expected = to_official(shapes, model.config.text.layers, model.task)
    expected = {name: value for name, value in expected.items() if not _REDUNDANT.search(name)}
    prefix = model.student.vision.position_prefix
    has_teacher = any(re.match(r"\w+_m\.", name) for name in state)
    required, mismatched, missing, usable = [], [], [], set()
    for name, value in expected.items():
        if name not in state:
            if not _OPTIONAL.match(name):
                required.append(name)
            elif has_teacher or "_m." not in name:
                missing.append(name)
        elif state[name].shape == value.shape or (
            _POSITIONS.fullmatch(name) and _resizable(state[name], value, prefix)
        ):
            usable.add(name)
        elif name.endswith(("_queue", "queue_ptr")):
            missing.append(name)
        else:
            mismatched.append(f"{name} has shape {tuple(state[name].shape)}, expected {tuple(value.shape)}")
    if required:
        raise CheckpointError(f"{source}: no tensor {_abbreviate(required)}, which a model for {model.task} needs")
    if mismatched:
        raise CheckpointError(f"{source}: {_abbreviate(mismatched, '; ')}")
    return missing, usable


def _abbreviate(items: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(items) - _MAX_SHOWN} more" if len(items) > _MAX_SHOWN else ""
    return separator.join(items[:_MAX_SHOWN]) + more


def _resizable(positions: Tensor, expected: Tensor, prefix: int) -> bool:
    """Return whether position embeddings have shape ``(1, prefix + side * side, W)``."""
    if positions.ndim != 3 or positions.shape[0] != 1 or positions.shape[2] != expected.shape[2]:
        return False
    patches = positions.shape[1] - prefix
    return patches > 0 and round(patches**0.5) ** 2 == patches


def _assemble(name: str, parts: list[Tensor], value: Tensor, position_prefix: int) -> Tensor:
    tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
    if name in ("queue.image", "queue.text"):
        tensor = tensor.T
    elif name in ("queue.ids", "queue._extra_state"):
        tensor = tensor.reshape(value.shape)
    elif name.endswith("vit.pos_embed"):
        tensor = resize_positions(tensor, value.shape[1], position_prefix)
    return tensor.to(value.dtype)


def _check_tied(architecture: Architecture, state: Mapping[str, Tensor], source: str) -> None:
    """Check that tensors are equal that this model ties.

    These are the MLM output matrix and the word embeddings, and with two images per text the key and value projections
    of each pair of fusion layers.
    """
    pairs = [(f"{m}cls.predictions.decoder.weight", f"{m}bert.embeddings.word_embeddings.weight") for m in _WORD_MODELS]
    if architecture.images == 2:
        matches = [match for match in map(_KEY_VALUE.fullmatch, state) if match]
        first = min((int(match[2]) for match in matches), default=0)
        second_layers = [match for match in matches if (int(match[2]) - first) % 2]
        pairs += [(match[0], f"{match[1]}{int(match[2]) - 1}{match[3]}") for match in second_layers]
    for one, other in pairs:
        if one in state and other in state and not torch.equal(state[one], state[other]):
            raise CheckpointError(f"{source}: {one} differs from {other}, but this model ties them")


def read_official(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict of an official checkpoint, weights-only.

    The state dict may be wrapped in ``{"model": ...}``. The prefix ``module.`` of distributed models is removed, and
    ``bert.`` if there is no MLM head.

    Raises:
        CheckpointError: If the file cannot be read without executing code or has no state dict.
    """
    return parse(read_weights(path), path)


def parse(data: Any, path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in the content of an official checkpoint; see `read_official`.

    Args:
        path: Name of the file in error messages.
    """
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
    """Load a torch file weights-only onto the CPU.

    The only class allowed besides plain data is `argparse.Namespace`.

    Raises:
        CheckpointError: If the file is missing, damaged, or contains more than plain data and tensors.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the checkpoint ({error.strerror or error})") from error
    except Exception as error:  # torch raises many exception types for damaged or unsafe files
        if match := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path}: not a weights-only checkpoint, it contains objects of {match[1]} whose loading could execute "
                "arbitrary code. If you trust its source, save its tensors to a new file and use that: "
                "torch.save({'model': torch.load(FILE, weights_only=False)['model']}, NEW)"
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: not a weights-only checkpoint ({reason})") from error


def infer_task(state: Mapping[str, Tensor]) -> str:
    """Infer the task of an official state dict from its tensor names.

    Grounding models are indistinguishable from retrieval models and are reported as ``retrieval``.

    Raises:
        CheckpointError: If the state dict matches no task.
    """
    if any(key.startswith("text_decoder.") for key in state):
        return "vqa"
    if "ta_head.weight" in state:
        return "text_assignment"
    if "cls_head.2.weight" in state:
        classes = next(iter(state["cls_head.2.weight"].shape), 0)
        for task in ("entailment", "nlvr2"):
            if registry.spec(task).architecture.classes == classes:
                return task
        raise CheckpointError(f"cls_head.2.weight has {classes} classes, expected 3 (entailment) or 2 (NLVR2)")
    if "itm_head.weight" not in state:
        raise CheckpointError(
            "no tensor itm_head.weight, cls_head.2.weight, ta_head.weight or text_decoder.*, expected an official "
            "ALBEF checkpoint"
        )
    return "pretrain" if any(key.startswith("text_encoder.cls.") for key in state) else "retrieval"
