"""Stage `behavior`: tests of all trained models, and the teacher's pseudo-targets."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from albef.behavior import suite
from albef.behavior.pseudo_targets import pseudo_targets
from albef.behavior.words import kinds
from albef.config import Config, section_of
from albef.data.files import new_folder
from albef.data.lists import Lists
from albef.data.tokenizer import texts_of
from albef.tasks import evaluation, registry
from albef.tasks.behavior import Subject
from albef.tasks.job import spaced

_TEXTS = 10_000  # rows of a training list that kinds of words are derived from


class BehaviorError(ValueError):
    """There is no model to test."""


def run(config: Config, lists: Path, images: Path, tokenizer: Path, models: Path, pretrained: Path, out: Path) -> None:
    """Test the model of each task, and write ``tests.json``, ``metrics.json`` and ``pseudo_targets.json``.

    Args:
        models: Folder with the models of the tasks, each in a folder named after its task.
        pretrained: Folder with the pretrained model.

    Raises:
        BehaviorError: If there is no model of a task that has tests.
        EvaluationError: If a model or the tokenizer does not fit.
    """
    data = Lists(lists, images)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    tested = {
        name: registry.module(name, "behavior").Behavior
        for name in registry.names()
        if registry.provides(name, "behavior")
    }
    tasks = [name for name in tested if getattr(config.tasks, name, None) is not None]
    tasks = [name for name in tasks if (models / name / "model.pth").is_file()]
    if not tasks:
        raise BehaviorError(f"{models}: no model of {', '.join(tested)}; run a finetune stage first")
    words = _kinds(data, set().union(*(behavior.answer_words(data) for behavior in tested.values())))
    results: list[suite.Result] = []
    compared: dict[str, dict[str, tuple[int, int]]] = {}
    for task in tasks:
        model, encoder = evaluation.load(task, models / task, tokenizer)
        subject: Subject = tested[task](model.to(device), encoder, section_of(config, task), data)
        found, compared[task] = suite.run(subject, words)
        results += found
    targets: list[dict[str, Any]] = []
    if "pretrain" in data:
        model, encoder = evaluation.load("pretrain", pretrained, tokenizer)
        targets = pseudo_targets(model.to(device), data["pretrain"], encoder, config.pretrain)
    with new_folder(out) as folder:
        tests = {"device": _name(device), "tests": list(map(_row, results)), "words": _words(compared)}
        _write(folder / "tests.json", tests)
        _write(folder / "pseudo_targets.json", targets)
        rates = {f"{r.task}/{r.test.replace(' ', '_')}": r.rate for r in results if r.rate is not None}
        _write(folder / "metrics.json", rates)


def _kinds(data: Lists, answers: set[str]) -> dict[str, list[str]]:
    """Return `kinds` of the words in training captions; with words of ``answers``, of these alone."""
    name = next((name for name in ("retrieval_train", "pretrain") if name in data), None)
    return {} if name is None else kinds(_texts(data, name), answers or None)


def _texts(data: Lists, name: str) -> Iterator[str]:
    rows = data[name]
    for row in spaced(len(rows), _TEXTS):
        yield from texts_of(rows[row])


def _row(result: suite.Result) -> dict[str, Any]:
    values = vars(result) | {"rate": result.rate, "error": result.error}
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}


def _words(compared: dict[str, dict[str, tuple[int, int]]]) -> list[dict[str, Any]]:
    """Return the words of each task, the worst first."""
    rows = [
        {"task": task, "word": word, "cases": cases, "passed": passed}
        for task, words in compared.items()
        for word, (cases, passed) in words.items()
    ]
    return sorted(rows, key=lambda row: (row["task"], row["passed"] / row["cases"], row["word"]))


def _name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor and the number of its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")  # of Linux
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores"


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
