"""Resumable run of the ablation, from raw data to the page."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from albef.ablation import page
from albef.ablation.variants import VARIANTS, Variant
from albef.config import Config, ConfigError
from albef.data import tokenizer
from albef.datasets import prepare
from albef.io import write_file
from albef.tasks import evaluation
from albef.training import run as training

_logger = logging.getLogger(__name__)

TASKS = ("retrieval", "entailment", "nlvr2", "vqa")


def run(config: Config, raw: Path, out: Path, seeds: Sequence[int], tasks: Sequence[str] = TASKS) -> None:
    """Measure every row for every seed; write ``results.json`` and the page.

    Args:
        config: Parameters shared by all rows, including those of the data.
        raw: Raw data for `albef prepare`.
        out: Output folder. A repeated call with the same parameters skips everything that is already complete.
        seeds: One repetition per seed. ``prepare`` keeps its own seed, so that all repetitions use the same data.
        tasks: Subset of `TASKS` to measure.

    Raises:
        ConfigError: If ``out`` holds results of other parameters, or a task is not a column of the table.
    """
    if unknown := sorted(set(tasks) - set(TASKS)):
        raise ConfigError(f"ablation: no column for task {unknown[0]!r}, expected one of {', '.join(TASKS)}")
    out.mkdir(parents=True, exist_ok=True)
    _check_parameters(config, out / "params.json")
    if not (out / "data" / "manifest.json").is_file():
        prepare.run(config.prepare, raw, out / "data")
    if not (out / "tokenizer" / tokenizer.FILE).is_file():
        tokenizer.run(config.tokenizer, out / "data", out / "tokenizer")
    total = len(seeds) * len(VARIANTS) * len(tasks)
    with tqdm(total=total, desc="ablation", unit="model", disable=None) as bar:
        for seed in seeds:
            for variant in VARIANTS:
                _run_row(variant.apply(config, seed), variant, seed, out, tasks, bar)
            shutil.rmtree(out / "models" / str(seed), ignore_errors=True)
    results = collect(out, seeds, tasks)
    write_file(out / "results.json", json.dumps(results, indent=1) + "\n")
    page.write(results, out)


def _check_parameters(config: Config, path: Path) -> None:
    text = json.dumps(asdict(config), indent=1, sort_keys=True) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(
            f"{path}: the folder holds results of other parameters; choose another folder or delete this one"
        )
    write_file(path, text)


def _result(out: Path, seed: int, variant: Variant, task: str) -> Path:
    return out / "runs" / str(seed) / variant.name.replace(" ", "") / task / "metrics.json"


def _run_row(config: Config, variant: Variant, seed: int, out: Path, tasks: Iterable[str], bar: tqdm[None]) -> None:
    """Measure one row, keeping pretrained models for other rows."""
    models = out / "models" / str(seed)
    inputs = (out / "data", out / "data", out / "tokenizer")

    def train(task: str, folder: Path, init: Path | None = None) -> Path:
        if not (folder / "model.pth").is_file():
            training.run(config, task, *inputs, folder, init=init, work_dir=out / "scratch", tracking_uri="none")
        return folder

    for task in tasks:
        result = _result(out, seed, variant, task)
        if not result.is_file():
            start = train("pretrain", models / variant.pretraining)
            if task == "nlvr2":
                start = train("text_assignment", models / f"{variant.pretraining}-ta", start)
            tuned = train(task, models / variant.name.replace(" ", "") / task, start)
            evaluation.run(config, task, tuned, *inputs, result.parent)
            shutil.rmtree(tuned)
        bar.update()


def collect(out: Path, seeds: Sequence[int], tasks: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Return metrics in percent by row and column, one value per seed."""
    table: dict[str, dict[str, list[float]]] = {}
    for variant in VARIANTS:
        row = table.setdefault(variant.name, {})
        for seed in seeds:
            for task in tasks:
                metrics = json.loads(_result(out, seed, variant, task).read_text(encoding="utf-8"))
                for column, value in _columns(task, metrics).items():
                    row.setdefault(column, []).append(100 * value)
    return table


def _columns(task: str, metrics: dict[str, float]) -> dict[str, float]:
    if task != "retrieval":
        return {task: metrics["accuracy"]}
    return {side: sum(metrics[f"{side}_r{k}"] for k in (1, 5, 10)) / 3 for side in ("tr", "ir")}
