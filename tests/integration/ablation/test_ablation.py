"""The ablation: variants, resumed runs and the result page."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import pytest

from albef import config as configuration
from albef.ablation import page, run
from albef.ablation.variants import COLUMNS, VARIANTS
from albef.config import Config, ConfigError
from tests import ROOT
from tests.errors import refuses


def _config() -> Config:
    return configuration.load(ROOT / "tests" / "presets" / "tiny.yaml")


def test_each_row_adds_one_thing() -> None:
    fields = ("itc", "hard_negatives", "distill_itc", "distill_mlm", "distill_downstream")
    rows = [[getattr(variant, field) for field in fields] for variant in VARIANTS]
    assert [sum(row) for row in rows] == list(range(6))
    pairs = [pair for before, after in pairwise(rows) for pair in zip(before, after, strict=True)]
    assert all(new >= old for old, new in pairs)


def test_a_row_changes_its_switches_and_seeds_alone() -> None:
    config, variant = _config(), VARIANTS[2]
    changed = variant.apply(config, seed=1)
    assert (changed.pretrain.itc, changed.pretrain.hard_negatives, changed.pretrain.distill_itc) == (True, True, False)
    assert changed.tasks.vqa.train.alpha == 0
    assert changed.pretrain.seed != config.pretrain.seed
    assert changed.prepare == config.prepare
    assert VARIANTS[-1].apply(config, seed=0) == config


def test_variants_that_differ_downstream_share_a_pretraining() -> None:
    assert len({variant.pretraining for variant in VARIANTS}) == 5
    assert VARIANTS[4].pretraining == VARIANTS[5].pretraining


def test_it_runs_stops_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    train = run.training.run

    def recorded(config: Config, task: str, *args: object, **kwargs: object) -> dict[str, float]:
        trained.append(task)
        return train(config, task, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(run.training, "run", recorded)
    evaluate = run.evaluation.run

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    raw = ROOT / "samples" / "emoji"
    monkeypatch.setattr(run.evaluation, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        run.run(_config(), raw, tmp_path, [0], ["entailment"])
    assert trained == ["pretrain", "entailment"]
    monkeypatch.setattr(run.evaluation, "run", evaluate)
    run.run(_config(), raw, tmp_path, [0], ["entailment"])
    assert trained.count("pretrain") == 5
    assert trained.count("entailment") == 6
    trained.clear()
    run.run(_config(), raw, tmp_path, [0], ["entailment"])
    assert trained == []
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == [variant.name for variant in VARIANTS]
    for variant in VARIANTS:
        metrics = json.loads(run._result(tmp_path, 0, variant, "entailment").read_text())
        assert results[variant.name]["entailment"] == [100 * metrics["accuracy"]]
    assert (tmp_path / "ablation.png").stat().st_size > 1000
    with refuses(ConfigError, "'captioning'"):
        run.run(_config(), raw, tmp_path / "x", [0], ["captioning"])
    other = dataclasses.replace(_config(), pretrain=dataclasses.replace(_config().pretrain, alpha=0.1))
    with refuses(ConfigError, tmp_path / "params.json"):
        run.run(other, raw, tmp_path, [0], ["entailment"])


def test_the_table_shows_mean_spread_and_the_papers_number() -> None:
    results = {variant.name: {"vqa": [50.0, 52.0]} for variant in VARIANTS}
    text = page.table(results)
    assert COLUMNS["vqa"] in text
    assert "| MLM + ITM | 51.0 ± 1.4 (71.40) |" in text
    assert text.count("\n") == 1 + len(VARIANTS)


def test_one_seed_has_no_spread() -> None:
    assert page.cell([50.0]) == "50.0"
