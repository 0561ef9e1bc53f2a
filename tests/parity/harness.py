"""Harness of the parity tests against the official code.

Tiny models in the official checkpoint layout must reproduce the official outputs on fixed inputs.

Cases come from the folder in ``ALBEF_PARITY_DIR``, by default ``cases`` beside this file. A case is ``NAME.npz``
(``in.*`` and ``out.*``) with weights in ``NAME.pth``, or in ``TASK.pth`` for a ``TASK_variant`` name.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from albef import config as albef_config
from albef.tasks.base import Task, task_class
from albef.weights.infer_config import infer_config
from albef.weights.official import load_official, read_official
from tests import ROOT
from tests.devices import DEVICE, on_device

HEADS = 4
MOMENTUM = 0.995
RTOL, GRAD_RTOL = 1e-5, 1e-4


def folder() -> Path:
    return Path(os.environ.get("ALBEF_PARITY_DIR") or Path(__file__).parent / "cases")


def cases(task: str) -> list[Path]:
    """Every case of a task: ``task.npz`` and ``task_*.npz``."""
    found = sorted([*folder().glob(f"{task}.npz"), *folder().glob(f"{task}_*.npz")])
    assert found, f"{folder()}: no parity case of {task}"
    return found


@dataclass
class Case:
    task: Task
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]

    @property
    def alpha(self) -> float:
        return float(self.inputs["alpha"])

    @property
    def negatives(self) -> tuple[Tensor, Tensor]:
        return self.inputs["negative_image_index"], self.inputs["negative_text_index"]

    @property
    def batch(self) -> dict[str, Tensor]:
        names = (
            "image",
            "input_ids",
            "attention_mask",
            "image_id",
            "label",
            "answer_ids",
            "answer_mask",
            "answer_weight",
        )
        batch = {name: self.inputs[name] for name in names if name in self.inputs}
        if "image_pair" in self.inputs:  # all first images, then all second ones
            batch["image"] = self.inputs["image_pair"]
        if "answers_per_question" in self.inputs:
            counts = self.inputs["answers_per_question"]
            batch["answer_question"] = torch.arange(len(counts), device=DEVICE).repeat_interleave(counts)
        return batch


def load_case(path: Path) -> Case:
    """Build the task of a case and load its weights through the checkpoint importer."""
    name = path.stem.split("_")[0]
    weights = path.with_suffix(".pth")
    if not weights.exists():
        weights = path.with_name(f"{name}.pth")
    state = read_official(weights)
    stored: Any = torch.load(weights, weights_only=True)["config"]
    config = albef_config.load(ROOT / "params.yaml")
    model = infer_config(
        state,
        HEADS,
        HEADS,
        momentum=stored.get("momentum", MOMENTUM),
        temperature=stored["temp"],
        queue_size=stored["queue_size"],
        projection=stored["embed_dim"],
        official_quirks=False,
    )
    config = dataclasses.replace(config, model=model)
    tokens = SimpleNamespace(
        vocab_size=state[next(k for k in state if k.endswith("word_embeddings.weight"))].shape[0],
        pad=0, cls=101, sep=102, mask=103,
    )  # fmt: skip
    task = task_class(name)(config, tokens)  # type: ignore[arg-type]
    report = load_official(task.model, state, str(weights))
    assert report.missing == [], report
    assert report.unexpected == [], report
    with np.load(path) as arrays:
        data = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    return Case(
        task.eval().to(DEVICE),
        on_device({key[3:]: value for key, value in data.items() if key.startswith("in.")}),
        {key[4:]: value for key, value in data.items() if key.startswith("out.")},
    )


def assert_close(actual: Tensor, expected: Tensor, name: str, rtol: float = RTOL) -> None:
    """Compare relative to the largest magnitude of the expected tensor."""
    scale = max(float(expected.abs().max()), 1e-12)
    error = float((actual.detach().cpu().double() - expected.double()).abs().max()) / scale
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert error <= rtol, f"{name}: relative error {error:.2e} > {rtol:.0e}"
