"""Training state on disk, for exact resume.

Checkpoints are stored in a work directory outside the outputs of the pipeline, which are deleted before a stage runs.
Its name is a digest of everything the run depends on, so a run with changed parameters, inputs or code never resumes
from a checkpoint of another.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from albef import distributed
from albef.config import Config, section_of
from albef.io import file_hash, write_file
from albef.tasks import registry
from albef.weights.official import CheckpointError, read_weights

_SOURCES = (
    "data",
    "distributed.py",
    "inference/answer_search.py",
    "inference/encode.py",
    "inference/itm_rerank.py",
    "losses",
    "models",
    "tasks/alignment.py",
    "tasks/base.py",
    "tasks/classification.py",
    "tasks/classification_data.py",
    "tasks/classification_eval.py",
    "training/inputs.py",
    "training/loop.py",
    "training/optim.py",
    "training/state.py",
    "training/step.py",
    "training/writer.py",
    "weights/adapt_weights.py",
)
"""Modules and packages of this library that decide the results of training; the task's own are added."""
_TASK_MODULES = ("train", "evaluate")
_NEUTRAL = (
    "activation_checkpointing",
    "checkpoint_every",
    "compile",
    "cuda_graph",
    "device_batch_size",
    "log_every",
    "max_bad_share",
    "max_skipped_steps",
    "num_workers",
)
"""Training parameters that a resumed run may change, as it may the number of ranks.

Results do not depend on them, except on the rows of a device: ITM draws its negatives from these.
"""


def digest_of(files: Iterable[Path]) -> str:
    """Return a digest of the contents of files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(bytes.fromhex(file_hash(path)))
    return digest.hexdigest()[:16]


def fingerprint(task: str, config: Config, data: str) -> str:
    """Return a digest of the parameters, input files and code that decide results.

    Args:
        data: Digest of the input files; see `digest_of`.
    """
    section = asdict(section_of(config, task))
    train = section["train"] if registry.spec(task).fine_tuning else section
    for name in _NEUTRAL:
        del train[name]
    parameters: dict[str, Any] = {"task": task, "model": asdict(config.model), "tokenizer": asdict(config.tokenizer)}
    parameters["train"] = section
    if task == "pretrain" and config.init is not None:
        parameters["init"] = asdict(config.init)
    text = json.dumps({**parameters, "data": data, "code": digest_of(_sources(task))}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sources(task: str) -> list[Path]:
    """Return the files of the code that decides the results of a task's training."""
    package = Path(__file__).resolve().parents[1]
    files = [p for name in _SOURCES for p in sorted([package / name, *(package / name).rglob("*.py")]) if p.is_file()]
    modules = [registry.module(task, name) for name in _TASK_MODULES if registry.provides(task, name)]
    return [*files, *(Path(str(module.__file__)) for module in modules)]


def of_rank(workers: Sequence[dict[str, Any]], seed: int, step: int) -> dict[str, Any]:
    """Return the part of a checkpoint that is this rank's own.

    With another number of ranks than at the time of the checkpoint, each rank gets the mean of the sums of losses, and
    its random number generators start anew from seed, step and rank.

    Args:
        workers: Sums of losses and states of random number generators, by rank.
    """
    rank, ranks = distributed.rank(), distributed.world_size()
    if len(workers) == ranks:
        return workers[rank]
    random.seed(f"{seed} {step} {rank}")
    np.random.seed(random.getrandbits(32))
    torch.manual_seed(random.getrandbits(63))
    names = workers[0]["sums"]
    return {"sums": {name: torch.stack([w["sums"][name] for w in workers]).mean(dim=0) for name in names}}


def random_state() -> dict[str, Any]:
    """Return the state of all random number generators as plain data."""
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
    """Restore the random number generators to a state of `random_state`."""
    torch.set_rng_state(state["torch"])
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a training state atomically."""
    write_file(path, lambda file: torch.save(state, file))


def load(path: Path) -> dict[str, Any] | None:
    """Read a training state; None if the file does not exist.

    Raises:
        CheckpointError: If the file is damaged or not a training state.
    """
    if not path.exists():
        return None
    state = read_weights(path)
    if not isinstance(state, dict) or "step" not in state:
        raise CheckpointError(f"{path}: not a training state; delete it to start training from the beginning")
    return state
