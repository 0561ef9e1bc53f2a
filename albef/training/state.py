"""Training state on disk: everything a run needs to go on as if it had never stopped.

Checkpoints live in a scratch folder named by what the run depends on, outside the pipeline's outputs, which are
deleted before a stage runs. A changed parameter, input or source file is another folder: never a wrong resume.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from albef.config import Config, section_of
from albef.weights.checkpoint import save_atomic
from albef.weights.official import CheckpointError, read_weights

_ROOMS = ("config.py", "data", "evaluation", "model", "objectives", "tasks", "training")


def digest_of(files: Iterable[Path]) -> str:
    """Digest of the content of files."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def fingerprint(task: str, config: Config, data: str) -> str:
    """Digest of a run's parameters, of its input files (``data``, see `digest_of`) and of the code that trains it."""
    package = Path(__file__).resolve().parents[1]
    sources = [p for room in _ROOMS for p in sorted([package / room, *(package / room).rglob("*.py")]) if p.is_file()]
    parameters: dict[str, Any] = {"task": task, "model": asdict(config.model), "tokenizer": asdict(config.tokenizer)}
    parameters["train"] = asdict(section_of(config, task))
    parameters["workers"] = config.distributed.world_size
    if task == "pretrain" and config.init is not None:
        parameters["init"] = asdict(config.init)
    text = json.dumps({**parameters, "data": data, "code": digest_of(sources)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def random_state() -> dict[str, Any]:
    """State of every random generator, as plain data and tensors."""
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random(state: dict[str, Any]) -> None:
    """Undo what happened to the generators since `random_state`."""
    torch.set_rng_state(state["torch"])
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, following = state["python"]
    random.setstate((version, tuple(internal), following))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a training state atomically."""
    save_atomic(state, path)


def load(path: Path) -> dict[str, Any] | None:
    """Read a training state; None where there is none.

    Raises:
        CheckpointError: If the file is damaged.
    """
    if not path.exists():
        return None
    state = read_weights(path)
    if not isinstance(state, dict) or "step" not in state:
        raise CheckpointError(f"{path}: not a training state; delete it to start again")
    return state


def write_text_atomic(path: Path, text: str) -> None:
    """Write a text file that is either absent, old or complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".tmp")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
