"""Comparison of weights with the model of the parameters, before training."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albef.config import Config, train_config
from albef.models.albef import ALBEF
from albef.weights import adapt_weights, checkpoint
from albef.weights.infer_config import size_mismatches, vocab_size
from albef.weights.init_weights import Fit, fit_text, fit_vision
from albef.weights.official import CheckpointError, from_official, infer_task, parse, read_weights
from albef.weights.pretrained_weights import kind_of, read_bert

_MAX_SHOWN = 8  # lines of a list


@dataclass
class Info:
    """Result of comparing weights with a model.

    Attributes:
        source: File, folder or name of the weights.
        kind: ``vision`` or ``text`` as in section ``init``, or ``checkpoint`` of a complete model.
        task: Task of the initialized model.
        loaded: Tensors of the model that are initialized.
        parameters: Number of parameters in them.
        left: Tensors of the student that keep their random initialization.
        ignored: Tensors of the source that are not used.
        sizes: Sizes of the source.
        problems: Reasons why the weights cannot be used.
    """

    source: str
    kind: str
    task: str
    loaded: list[str] = field(default_factory=list)
    parameters: int = 0
    left: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    sizes: Mapping[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """True if the weights can be used with the parameters."""
        return not self.problems

    def to_json(self) -> str:
        """Return all fields as JSON."""
        return json.dumps({"fits": self.fits, **asdict(self)}, indent=2)

    def text(self) -> str:
        """Return a summary for the terminal."""
        verdict = "fit the parameters" if self.fits else "do not fit the parameters"
        lines = [f"{self.source}: weights of kind {self.kind}, {verdict}"]
        if self.sizes:
            lines.append("sizes: " + ", ".join(f"{key} {value:g}" for key, value in self.sizes.items()))
        for title, items in (
            (f"problems: {len(self.problems)}", self.problems),
            (f"initialized: {len(self.loaded)} tensors, {self.parameters:,} parameters", _grouped(self.loaded)),
            (f"left as built: {len(self.left)} tensors", _grouped(self.left)),
            (f"ignored in the source: {len(self.ignored)} tensors", _grouped(self.ignored)),
        ):
            lines += [title, *(f"  {item}" for item in items[:_MAX_SHOWN])]
            if len(items) > _MAX_SHOWN:
                lines.append(f"  and {len(items) - _MAX_SHOWN} more")
        return "\n".join(lines)


def _grouped(names: Iterable[str]) -> list[str]:
    """Return module names with ``*`` for layer numbers, and the number of tensors of each."""
    groups = Counter(re.sub(r"\.\d+(?=\.|$)", ".*", ".".join(name.split(".")[:5])) for name in names)
    return [f"{name} ({count})" for name, count in groups.items()]


def inspect(config: Config, source: str, kind: str | None = None, task: str | None = None) -> Info:
    """Compare weights with the model of the parameters.

    Args:
        source: As in ``init.vision`` or ``init.text``, or a checkpoint of a complete model: a file, or a folder with
            ``model.pth``.
        kind: ``vision``, ``text`` or ``checkpoint``; by default inferred from the tensor names.
        task: Task of the initialized model; by default pretraining, or the task of a checkpoint.

    Raises:
        CheckpointError: If the weights cannot be read.
        ConfigError: If the parameters describe no model.
    """
    path = Path(source).expanduser()
    path = path / "model.pth" if path.is_dir() else path
    readable = kind is None and path.is_file() and path.suffix != ".safetensors"
    data = read_weights(path) if readable or kind == "checkpoint" else None
    kind = kind or ("checkpoint" if _is_complete(data) else kind_of(source))
    if kind == "checkpoint":
        return _complete(config, source, data, task)
    task = task or "pretrain"
    vocabulary = int(read_bert(source).sizes["vocabulary"]) if kind == "text" else 1
    model = _without_data(config, vocabulary, task)
    fit = fit_vision(model, source) if kind == "vision" else fit_text(model, source)
    info = Info(source, kind, task, ignored=[*fit.pretrained.ignored, *fit.unused], sizes=fit.pretrained.sizes)
    info.problems = _problems(fit)
    _compare(info, model, fit.loaded)
    return info


def _without_data(config: Config, vocabulary: int, task: str) -> ALBEF:
    """Build a model without allocating its tensors."""
    size = train_config(config, task).image_size or config.model.image_size
    with torch.device("meta"):
        return ALBEF(replace(config.model, image_size=size), vocabulary, task)


def _problems(fit: Fit) -> list[str]:
    source = fit.pretrained.source
    return [
        *fit.sizes,
        *(f"{source} has no tensor {name}, which the model needs" for name in fit.missing),
        *fit.mismatched,
        *(f"{source} has a tensor {name}, which the model does not have" for name in fit.unused),
    ]


def _compare(info: Info, model: ALBEF, tensors: Mapping[str, Tensor]) -> None:
    """Add which tensors of ``model`` are initialized by ``tensors``."""
    for name, value in model.state_dict().items():
        if name in tensors and tensors[name].shape == value.shape:
            info.loaded.append(name)
            info.parameters += value.numel()
        elif name in tensors:
            shapes = f"{tuple(tensors[name].shape)}, expected {tuple(value.shape)}"
            info.problems.append(f"{name} has shape {shapes} by the model section of the parameters")
        elif name.startswith("student."):
            info.left.append(name)


def _is_complete(data: Any) -> bool:
    """Return whether the content of a file is a complete model, ours or published."""
    state = data.get("model", data) if isinstance(data, dict) else {}
    official = any(str(key).removeprefix("module.").startswith("visual_encoder.") for key in state)
    return checkpoint.is_model_file(data) or official


def _complete(config: Config, source: str, data: Any, task: str | None) -> Info:
    """Compare the content of a checkpoint, of this library or in a published layout."""
    ignored: list[str] = []
    if checkpoint.is_model_file(data):
        state, meta = checkpoint.parse(data, source)
        source_task, vocabulary = meta.task, meta.vocab_size
    else:
        official = parse(data, source)
        source_task, vocabulary = infer_task(official), vocab_size(official)
        model = _without_data(config, vocabulary, source_task)
        if problems := size_mismatches(model.config, official):
            return Info(source, "checkpoint", task or source_task, problems=problems)
        try:
            state, report = from_official(model, official, source)
        except CheckpointError as error:
            return Info(source, "checkpoint", task or source_task, problems=[str(error)])
        ignored = report.unexpected
    info = Info(source, "checkpoint", task or source_task, ignored=ignored)
    model = _without_data(config, vocabulary, info.task)
    _compare(info, model, adapt_weights.adapt(state, source_task, model))
    return info
