"""Exported model and Triton repository, built once per test run."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock

from albef.config import Config
from albef.data import tokenizer
from albef.export import onnx, repository
from albef.models.albef import ALBEF
from albef.weights import checkpoint
from tests import SHARED
from tests.worlds import color_world, tiny_config


@dataclass(frozen=True)
class Served:
    """Folders of an exported model with random weights."""

    config: Config
    folder: Path

    @property
    def exported(self) -> Path:
        return self.folder / "export"

    @property
    def repository(self) -> Path:
        return self.folder / "repository"


def served_config() -> Config:
    """A tiny model whose serving limits tests can reach."""
    config = tiny_config()
    limits = {"shortlist": 6, "max_k": 40, "max_batch_size": 8, "max_queries": 8}
    serve = dataclasses.replace(config.serve, max_image_bytes=20_000, max_image_pixels=90_000, **limits)
    export = dataclasses.replace(config.export, parity_samples=3)
    evaluate = dataclasses.replace(config.tasks.retrieval.evaluate, score="itm")
    tasks = dataclasses.replace(config.tasks, retrieval=dataclasses.replace(config.tasks.retrieval, evaluate=evaluate))
    return dataclasses.replace(config, serve=serve, export=export, tasks=tasks)


TASKS = ("retrieval", "vqa", "entailment", "nlvr2", "grounding")


def random_model(folder: Path, config: Config, seed: int = 0, task: str = "retrieval") -> ALBEF:
    """A model of the world in ``folder``, with weights large enough that answers differ."""
    torch.manual_seed(seed)
    vocabulary = tokenizer.load(folder / "tokenizer").get_vocab_size()
    model = ALBEF(config.model, vocabulary, task).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and not name.startswith("teacher."):
                value.mul_(3.0)
    return model


@functools.cache
def served() -> Served:
    """Return this process's temporary copy of the exported model.

    The original is built once per test run; processes share the work by exporting the tasks in different orders.
    """
    own = Path(_temporary().name)
    result = Served(served_config(), Path(os.environ.get(SHARED, own)) / "served")
    _once(result, "lists", lambda: color_world(result.folder))
    backwards = os.environ.get("PYTEST_XDIST_WORKER", "gw0").endswith("1")
    for task in reversed(TASKS) if backwards else TASKS:
        _once(result, f"export/{task}", functools.partial(_export, result, task))
    inputs = (result.folder / "lists", result.folder, result.folder / "tokenizer")
    _once(result, "repository", lambda: repository.run(result.config, result.exported, *inputs, result.repository))
    return Served(result.config, Path(shutil.copytree(result.folder, own / "copy")))


def _once(result: Served, name: str, build: Callable[[], object]) -> None:
    """Build a part of the folder unless another process has built it."""
    lock = result.folder.parent / f"served-{name.replace('/', '-')}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        done = lock.with_suffix(".done")
        if not done.exists():
            build()
            done.touch()


def _export(result: Served, task: str) -> None:
    folder, config = result.folder, result.config
    model = folder / "models" / task
    checkpoint.save(random_model(folder, config, task=task), model / "model.pth")
    onnx.run(config, task, model, folder / "tokenizer", folder / "export" / task)


def copy_endpoints(repository: Path, target: Path, *names: str) -> Path:
    """Copy endpoints and their graphs from a model repository; a server loads few in less time."""
    for folder in repository.iterdir():
        if folder.name.startswith(names):
            shutil.copytree(folder, target / folder.name)
    return target


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="albef-served-")
