"""Curves and final values of training runs."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from albef.report import figures
from albef.report.section import Block, Section
from albef.report.source import read_history, read_metrics
from albef.tasks import registry

_FILES = ("history.csv", "metrics.json")  # of a training run


def _folders(artifacts: Path) -> dict[str, Path]:
    """Return the folders of training runs by display name, in pipeline order."""
    folders = {"pretrain": artifacts / "pretrain", "text assignment": artifacts / "text_assignment"}
    folders |= {f"finetune {folder.name}": folder for folder in sorted(artifacts.glob("finetune/*"))}
    return {name: folder for name, folder in folders.items() if any((folder / file).is_file() for file in _FILES)}


def curve(section: Section, folder: Path) -> list[Block]:
    """Return the curve of a task's training: its losses, and the validation metric after each epoch."""
    if not any((folder / file).is_file() for file in _FILES):
        return []
    history, metrics = read_history(folder / "history.csv"), read_metrics(folder / "metrics.json")
    name: str | None = f"val_{registry.spec(section.task).headline}" if section.task in registry.names() else None
    if name in metrics and name not in history:  # of an earlier version, which kept only the selected value
        history[name] = [*[math.nan] * (len(history["step"]) - 1), metrics[name]][: len(history["step"])]
    draw = partial(figures.curves, {"training": history}, validated=name if name in history else None)
    return [section.chart("training", draw, "Losses over steps, and the validation metric after each epoch")]


def runs(artifacts: Path, out: Path, shown: Collection[str]) -> dict[str, Any]:
    """Return final values of all runs; plot those that are not among the tasks ``shown`` elsewhere."""
    folders = _folders(artifacts)
    histories = {
        name: read_history(folder / "history.csv")
        for name, folder in folders.items()
        if folder.parent.name != "finetune" or folder.name not in shown
    }
    if histories:
        figures.curves(histories, out / "losses.svg")
    finals = [
        [name, metric, value]
        for name, folder in folders.items()
        for metric, value in sorted(read_metrics(folder / "metrics.json").items())
    ]
    return {"runs": finals if folders else None, "losses": bool(histories)}
