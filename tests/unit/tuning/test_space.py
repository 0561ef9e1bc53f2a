"""Tests of search spaces and of settings as parameters."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from albef.config import ConfigError, overlay, read
from albef.data.tokenizer import Encoder
from albef.tasks.base import task_class
from albef.tuning import results, space
from albef.tuning.space import SpaceError
from tests.worlds import color_world, tiny_config, tiny_tune

KEYS = ("optim.lr", "optim.warmup_steps", "alpha")
CONFIG = dataclasses.replace(
    tiny_config(),
    tune=tiny_tune(rows=32),
)


@pytest.fixture
def config():
    return CONFIG


def test_the_space_contains_the_current_setting(config):
    found = space.space_of(config, "vqa", {})
    assert set(found) == set(KEYS)
    train = config.tasks.vqa.train
    assert found["optim.lr"] == ("loguniform", train.optim.lr / 4, train.optim.lr * 4)
    assert found["optim.warmup_steps"] == ("lograndint", train.optim.warmup_steps / 4, train.optim.warmup_steps * 4)
    assert found["alpha"] == ("uniform", 0.0, 0.8)
    far = overlay(config, results.as_params("vqa", {"alpha": 0.95, "optim.warmup_steps": 0}))
    assert space.space_of(far, "vqa", {})["alpha"] == ("uniform", 0.0, 0.95)
    assert "optim.warmup_steps" not in space.space_of(far, "vqa", {})
    assert space.space_of(config, "retrieval", {"temperature": 0.01})["temperature"] == ("loguniform", 0.01, 0.3)
    set_ = overlay(config, results.as_params("retrieval", {"temperature": 0.5}))
    assert space.space_of(set_, "retrieval", {"temperature": 0.01})["temperature"] == ("loguniform", 0.02, 0.5)


@given(st.floats(1e-6, 1.0), st.integers(1, 5000), st.floats(0.0, 1.0))
def test_any_current_setting_is_within_the_space(lr, warmup, alpha):
    config = overlay(CONFIG, results.as_params("vqa", dict(zip(KEYS, (lr, warmup, alpha), strict=True))))
    for key, (kind, low, high) in space.space_of(config, "vqa", {}).items():
        assert low <= space.current_value(config, "vqa", key, {}) <= high
        assert low < high
        assert low > 0 or not kind.startswith("log")


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"optim.rate": ("uniform", 0.0, 1.0)}, "vqa.search_space: optim.rate: "),
        ({"optim.kind": ("uniform", 0.0, 1.0)}, "vqa.search_space: optim.kind: "),
        ({"alpha": ("normal", 0.0, 1.0)}, "'normal'"),
        ({"alpha": ("uniform", 1.0, 0.0)}, "1.0, 0.0"),
        ({"optim.lr": ("loguniform", 0.0, 1.0)}, "0.0, 1.0"),
        ({}, "vqa: "),
    ],
)
def test_a_space_that_does_not_fit_is_named(config, monkeypatch, declared, words):
    monkeypatch.setattr(task_class("vqa"), "search_space", classmethod(lambda cls: declared))
    with pytest.raises(SpaceError) as caught:
        space.space_of(config, "vqa", {})
    assert words in str(caught.value)


def test_an_unknown_task_is_named(config):
    with pytest.raises(SpaceError) as caught:
        space.space_of(config, "nonsense", {})
    assert str(caught.value).startswith("nonsense: ")
    assert "entailment, grounding, nlvr2, retrieval, vqa" in str(caught.value)


def test_training_starts_from_the_temperature_of_the_parameters(config, tmp_path):
    world = color_world(tmp_path / "world")
    encoder = Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    for name in ("retrieval", "grounding"):
        task = task_class(name)(config, encoder)
        task.begin()
        assert task.model.temperature.item() == pytest.approx(config.model.temperature)
        task = task_class(name)(overlay(config, results.as_params(name, {"temperature": 0.2})), encoder)
        task.begin()
        assert task.model.temperature.item() == pytest.approx(0.2)


def test_a_setting_becomes_parameters(config, tmp_path):
    setting = {"optim.lr": 0.002, "optim.warmup_steps": 7, "alpha": 0.1}
    with (tmp_path / "best.yaml").open("w") as file:
        YAML().dump(results.as_params("vqa", setting), file)
    tuned = overlay(config, read(tmp_path / "best.yaml"))
    assert (tuned.tasks.vqa.train.optim.lr, tuned.tasks.vqa.train.optim.warmup_steps) == (0.002, 7)
    assert tuned.tasks.vqa.train.alpha == 0.1
    assert tuned.tasks.entailment == config.tasks.entailment
    for key, value in (("alpho", 1.0), ("alpha", "much")):
        with pytest.raises(ConfigError) as caught:
            overlay(config, results.as_params("vqa", {key: value}))
        assert f"tasks.vqa.train.{key}: " in str(caught.value)
    short = dataclasses.replace(config, tune=dataclasses.replace(config.tune, epochs=2))
    assert space.trial_config(short, "vqa", setting).tasks.vqa.train.epochs == 2
