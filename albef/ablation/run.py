"""Runs the ablation: every row over several seeds, from raw data to a page. What is finished is never run again."""

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
from albef.data.files import write_text
from albef.datasets import prepare
from albef.tasks import evaluation
from albef.training import run as training

_logger = logging.getLogger(__name__)

TASKS = ("retrieval", "entailment", "nlvr2", "vqa")


def run(config: Config, raw: Path, out: Path, seeds: Sequence[int], tasks: Sequence[str] = TASKS) -> None:
    """Pretrain, fine-tune and evaluate every row for every seed; write ``results.json`` and the page.

    Args:
        config: The parameters that all rows share; those of the data included.
        raw: Raw data of `albef prepare`.
        out: Folder of everything. A second call goes on where the first one stopped, with the same parameters alone.
        seeds: One repetition each; ``prepare`` keeps its own seed, so that all learn from the same data.
        tasks: Which of `TASKS` to measure.

    Raises:
        ConfigError: If ``out`` holds results of other parameters, or a task is none of the table's.
    """
    if unknown := sorted(set(tasks) - set(TASKS)):
        raise ConfigError(f"ablation: no column for task {unknown[0]!r}; known are {', '.join(TASKS)}")
    out.mkdir(parents=True, exist_ok=True)
    _same_parameters(config, out / "params.json")
    if not (out / "data" / "manifest.json").is_file():
        prepare.run(config.prepare, raw, out / "data")
    if not (out / "tokenizer" / tokenizer.FILE).is_file():
        tokenizer.run(config.tokenizer, out / "data", out / "tokenizer")
    total = len(seeds) * len(VARIANTS) * len(tasks)
    with tqdm(total=total, desc="ablation", unit="model", disable=None) as bar:
        for seed in seeds:
            for variant in VARIANTS:
                _row(variant.apply(config, seed), variant, seed, out, tasks, bar)
            shutil.rmtree(out / "models" / str(seed), ignore_errors=True)
    results = collect(out, seeds, tasks)
    write_text(out / "results.json", json.dumps(results, indent=1) + "\n")
    page.write(results, out)


def _same_parameters(config: Config, path: Path) -> None:
    text = json.dumps(asdict(config), indent=1, sort_keys=True) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{path}: results of other parameters; choose another folder or remove this one")
    write_text(path, text)


def _result(out: Path, seed: int, variant: Variant, task: str) -> Path:
    return out / "runs" / str(seed) / variant.name.replace(" ", "") / task / "metrics.json"


def _row(config: Config, variant: Variant, seed: int, out: Path, tasks: Iterable[str], bar: tqdm[None]) -> None:
    """Measure one row; models that other rows of the seed start from are kept until the seed is done."""
    models = out / "models" / str(seed)
    inputs = (out / "data", out / "data", out / "tokenizer")

    def train(task: str, folder: Path, init: Path | None = None) -> Path:
        if not (folder / "model.pth").is_file():
            training.run(config, task, *inputs, folder, init=init, scratch=out / "scratch", tracking_uri="none")
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
    """Measures in per cent by row and column, one value a seed."""
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
    return {way: sum(metrics[f"{way}_r{k}"] for k in (1, 5, 10)) / 3 for way in ("tr", "ir")}
