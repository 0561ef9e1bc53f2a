"""Parameters for a folder of lists in the official format."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from albef.config import Config, ConfigError
from albef.data.schema import EXTRAS, known_lists
from albef.tasks import registry

SIDE, STORED = 128, 512
"""Pixels per side that the model sees, and of the longer side of stored images."""
STEPS = {"pretrain": 600, "retrieval": 200}
"""Steps of training that take minutes on a CPU."""
MAX_BAD = 0.05
_OTHER_STEPS = 400
_LARGEST_BATCH = 32
_CHECKPOINT_STEPS = 100


def sizes_in(folder: Path) -> dict[str, int]:
    """Return the number of rows of each list ``NAME.json`` in a folder.

    Raises:
        ConfigError: If a list cannot be read.
    """
    sizes = {}
    for name in (*known_lists(), *EXTRAS):
        path = folder / f"{name}.json"
        try:
            sizes[name] = len(json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: expected a JSON list ({error})") from error
    return sizes


def fill(data: MutableMapping[str, Any], folder: Path, sizes: Mapping[str, int]) -> str:
    """Change parameters in place; return a description of the choices.

    Args:
        folder: Folder of lists, from which image paths start.
        sizes: Number of rows of each list.

    Raises:
        ConfigError: If there is no list for pretraining or for no task.
    """
    if "pretrain" not in sizes:
        raise ConfigError(f"{folder}: no pretrain.json; add a list of images with captions for pretraining")
    lists = {name: _training_list(name) for name in data["tasks"]}
    kept = {name: sizes[each] for name, each in lists.items() if each in sizes}
    if not kept:
        raise ConfigError(f"{folder}: no training list of a task, expected one of {', '.join(lists.values())} (.json)")
    files = {name: [str(folder / f"{name}.json")] for name in sizes}
    data["prepare"].update({"source": "lists", "lists": {"image_root": str(folder), "files": files}})
    adapt(data)
    left_out = leave_out(data, [name for name in data["tasks"] if name not in kept])
    size(data["pretrain"], sizes["pretrain"], STEPS["pretrain"])
    size(data["text_assignment"], sizes.get("text_assignment", sizes["pretrain"]), 0)
    for name, rows in kept.items():
        size(data["tasks"][name]["train"], rows, STEPS.get(name, _OTHER_STEPS))
    described = ", ".join(f"{name} {rows:,}" for name, rows in sizes.items())
    return "\n".join(
        [
            f"tasks {', '.join(kept)} on the lists of {folder}",
            f"  rows:        {described}",
            f"  pretraining: {data['pretrain']['epochs']} epochs in batches of {data['pretrain']['batch_size']}",
            f"  left out:    {', '.join(left_out) or 'no task'} (no training list)",
            "Next:",
            "  .venv/bin/dvc repro",
            "  .venv/bin/albef serve --repository artifacts/repository",
        ]
    )


def _training_list(task: str) -> str:
    return str(registry.spec(task).test_list).removesuffix("_test") + "_train"


def tasks_without_data(config: Config) -> list[str]:
    """Return the tasks of the parameters that no list of ``prepare.lists`` trains."""
    if config.prepare.source != "lists" or config.prepare.lists is None:
        return []
    files = config.prepare.lists.files
    return [name for name, task in vars(config.tasks).items() if task is not None and _training_list(name) not in files]


def adapt(data: MutableMapping[str, Any]) -> None:
    """Set the parameters for photos and free text instead of the built-in data set."""
    data["prepare"]["max_side"] = STORED
    data["validate"].update({"on_bad_record": "quarantine", "max_bad_share": MAX_BAD})
    data["tokenizer"].update({"kind": "wordpiece", "vocab_size": 8192})
    data["tokenizer"].pop("source", None)
    data["model"]["image_size"] = SIDE


def leave_out(data: MutableMapping[str, Any], tasks: Iterable[str]) -> list[str]:
    """Remove tasks without data, and return them."""
    names = list(tasks)
    for name in names:
        del data["tasks"][name]
        data["release"]["metrics"].pop(name, None)
    data["tune"]["tasks"] = [name for name in data["tune"]["tasks"] if name not in names]
    return names


def augment(section: MutableMapping[str, Any]) -> None:
    """Set the augmentation of photos."""
    section.update({"augment": "randaugment", "num_workers": min(4, (os.cpu_count() or 1) // 2)})


def size(section: MutableMapping[str, Any], rows: int, steps: int) -> None:
    """Set batch size, epochs and intervals of training.

    Args:
        rows: Rows of the training list.
        steps: Wanted number of steps; 0 for one epoch.
    """
    augment(section)
    batch = _LARGEST_BATCH
    while batch > 2 and batch * 2 > rows:
        batch //= 2
    per_epoch = max(rows // batch, 1)
    epochs = max(1, round(steps / per_epoch))
    section.update({"batch_size": batch, "epochs": epochs})
    section.update({"log_every": max(1, min(40, per_epoch * epochs // 10)), "checkpoint_every": _CHECKPOINT_STEPS})
    section["optim"]["warmup_steps"] = max(1, per_epoch * epochs // 20)
