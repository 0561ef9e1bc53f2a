"""The official checkpoint layout (salesforce/ALBEF), read into and written from our model.

One function, `official_names`, states the correspondence; both directions and the gradients of the parity tests
go through it. A tensor of ours may be several official ones, concatenated over their first dimension.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albef.config import ModelConfig, TextConfig, VisionConfig
from albef.model.albef import ALBEF
from albef.model.layout import Layout, layout_of
from albef.model.queue import NO_ID
from albef.model.vision import resize_positions

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


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit the model."""


@dataclass(frozen=True)
class LoadReport:
    """What a checkpoint lacked and what it held beyond the model."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


def official_names(name: str, text_layers: int, layout: Layout) -> list[str]:
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
        return [f"{'ta_head' if layout.head == 'linear' else 'cls_head'}{suffix}.{rest}"]
    if room == "mlm_head":
        return [_head_name(encoder, rest)]
    if room == "decoder":
        room, _, rest = rest.partition(".")
        if room == "head":
            return [_head_name(decoder, rest)]
        return _bert_names(f"{decoder}bert.", f"{room}.{rest}".split("."), 0)
    return _bert_names(
        encoder + ("bert." if layout.mlm else ""), rest.split("."), text_layers if room == "fusion" else 0
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
        names = official_names(name, text_layers, layout_of(task))
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


def _assemble(name: str, state: Mapping[str, Tensor], model: ALBEF) -> Tensor | None:
    names = official_names(name, model.config.text.layers, model.layout)
    if any(n not in state for n in names):
        return None
    tensor = torch.cat([state[n] for n in names]) if len(names) > 1 else state[names[0]]
    if name in ("queue.image", "queue.text"):
        tensor = tensor.T
    elif name == "queue.ids":
        tensor = tensor.reshape(-1)
    elif name == "queue._extra_state":
        tensor = tensor.reshape(())
    elif name.endswith("vit.pos_embed"):
        tensor = resize_positions(tensor, model.state_dict()[name].shape[1])
    return tensor


def load_official(model: ALBEF, state: Mapping[str, Tensor], source: str = "checkpoint") -> LoadReport:
    """Fill ``model`` from a state dict in the official layout of the model's task.

    Position embeddings of another image size are interpolated. A layout without teacher copies it from the student.
    A queue of another size, or none, leaves the model's own; ids that a pretraining queue lacks are unknown
    and never count as positives, as in the official fine-tuning.

    Args:
        source: Name in error messages.

    Raises:
        CheckpointError: If a tensor of the student is missing or of another shape, or the MLM output matrix is not
            the word embedding's.
    """
    own, filled, used = model.state_dict(), {}, set[str]()
    missing: list[str] = []
    has_teacher = any(key.startswith("visual_encoder_m.") for key in state)
    for name, value in own.items():
        if name.startswith("teacher.") and not has_teacher:
            continue
        if name == "queue.ids" and "idx_queue" not in state:
            continue  # the pretraining layout has none
        names = official_names(name, model.config.text.layers, model.layout)
        tensor = _assemble(name, state, model)
        if tensor is None:
            missing += [n for n in names if n not in state]
            if name not in _QUEUE and not name.startswith("teacher."):
                raise CheckpointError(f"{source}: no tensor {missing[-1]}, which the model's {name} needs")
            continue
        used.update(names)
        if tensor.shape != value.shape:
            if name in _QUEUE:
                missing += names
                continue
            raise CheckpointError(
                f"{source}: {names[0]} makes {name} of shape {tuple(tensor.shape)}, expected {tuple(value.shape)}"
            )
        filled[name] = tensor.to(value.dtype)
    if not all(name in filled for name in ("queue.image", "queue.text")):
        filled = {k: v for k, v in filled.items() if k not in _QUEUE}
    elif "queue.ids" not in filled:
        filled["queue.ids"] = torch.full_like(own["queue.ids"], NO_ID)
    _check_tied(state, source)
    model.load_state_dict(filled, strict=False)
    if model.layout.teacher and not has_teacher:
        model.copy_teacher()
    unexpected = [key for key in state if key not in used and not _REDUNDANT.search(key)]
    return LoadReport(missing, unexpected)


def _check_tied(state: Mapping[str, Tensor], source: str) -> None:
    for encoder in _WORD_MODELS:
        output = state.get(f"{encoder}cls.predictions.decoder.weight")
        word = state.get(f"{encoder}bert.embeddings.word_embeddings.weight")
        if output is not None and word is not None and not torch.equal(output, word):
            raise CheckpointError(f"{source}: {encoder}cls.predictions.decoder.weight differs from the word embedding")


def read_official(path: str | Path) -> dict[str, Tensor]:
    """Read a published checkpoint: a state dict, bare or wrapped in ``{"model": ...}``; weights only.

    Raises:
        CheckpointError: If the file cannot be read without running foreign code or holds no state dict.
    """
    data = read_weights(path)
    state = data.get("model", data) if isinstance(data, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path}: expected a state dict or a mapping with one under 'model'")
    return state


def read_weights(path: str | Path) -> Any:
    """Load a torch file weights-only onto the CPU.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds more than plain data and tensors.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the checkpoint ({error.strerror or error})") from error
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
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
        classes = state["cls_head.2.weight"].shape[0]
        for task in ("entailment", "nlvr2"):
            if layout_of(task).classes == classes:
                return task
        raise CheckpointError(f"cls_head.2.weight: {classes} classes, expected 3 (entailment) or 2 (NLVR2)")
    if "itm_head.weight" not in state:
        raise CheckpointError(
            "no tensor itm_head.weight, cls_head.2.weight, ta_head.weight or text_decoder.*: not an official layout"
        )
    return "pretrain" if any(key.startswith("text_encoder.cls.") for key in state) else "retrieval"


def infer_config(state: Mapping[str, Tensor], vision_heads: int, text_heads: int, **settings: Any) -> ModelConfig:
    """Sizes of the model that a state dict in the official layout was saved from.

    Args:
        vision_heads: Attention heads of the image encoder, which no tensor tells; ``text_heads`` alike.
        settings: Fields of `ModelConfig` that are no sizes: ``momentum``, ``temperature``, ``faithful``, and
            ``queue_size`` and ``projection`` where the layout has neither.

    Raises:
        CheckpointError: If a tensor that tells a size is missing.
    """
    layout = layout_of(infer_task(state))
    bert = "text_encoder.bert." if layout.mlm else "text_encoder."
    try:
        patch = state["visual_encoder.patch_embed.proj.weight"]
        positions = state[f"{bert}embeddings.position_embeddings.weight"]
        grid = round((state["visual_encoder.pos_embed"].shape[1] - 1) ** 0.5)
        ffn = state[f"{bert}encoder.layer.0.intermediate.dense.weight"].shape[0]
        if layout.projections != "none":
            settings["projection"] = state["vision_proj.weight"].shape[0]
        if layout.align and "image_queue" in state:
            settings["queue_size"] = state["image_queue"].shape[1]
    except KeyError as error:
        raise CheckpointError(f"no tensor {error.args[0]}: not an official layout") from error

    def count(pattern: str) -> int:
        return len({m.group(1) for key in state if (m := re.fullmatch(pattern, key))})

    fusion = count(re.escape(bert) + r"encoder\.layer\.(\d+)\.crossattention\.self\.query\.weight")
    total = count(re.escape(bert) + r"encoder\.layer\.(\d+)\.attention\.self\.query\.weight")
    depth = count(r"visual_encoder\.blocks\.(\d+)\.norm1\.weight")
    return ModelConfig(
        image_size=grid * patch.shape[2],
        patch_size=patch.shape[2],
        vision=VisionConfig(width=patch.shape[0], depth=depth, heads=vision_heads, stem="patch", drop_path=0.0),
        text=TextConfig(
            width=positions.shape[1],
            layers=total - fusion,
            fusion_layers=fusion // layout.images,
            heads=text_heads,
            ffn=ffn,
            max_positions=positions.shape[0],
            dropout=0.1,
            decoder_layers=count(r"text_decoder\.bert\.encoder\.layer\.(\d+)\.output\.dense\.weight") or None,
        ),
        **settings,
    )
