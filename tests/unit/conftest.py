from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from albef import config as configuration
from albef.config import PrepareConfig
from albef.datasets import prepare
from albef.datasets.emoji import lexicon as lexicons
from albef.datasets.emoji import world as worlds
from albef.datasets.emoji.lexicon import Lexicon
from albef.datasets.emoji.world import World
from albef.tasks import registry
from albef.weights import checkpoint
from tests import ROOT
from tests.served import random_model
from tests.worlds import color_world, tiny_config, write_params

SPRITES = ROOT / "samples" / "emoji"


def small(**changes: int | float) -> PrepareConfig:
    """The demo's data on a small scale."""
    config = configuration.load(ROOT / "params.yaml").prepare
    sizes = {"pretrain": 150, "train": 150, "val": 40, "test": 40, **changes}
    return dataclasses.replace(config, emoji=dataclasses.replace(config.emoji, **sizes))


@pytest.fixture(scope="session")
def lexicon() -> Lexicon:
    return lexicons.load(SPRITES)


@pytest.fixture(scope="session")
def world() -> World:
    """Scenes of the demo's proportions, none painted."""
    config = small(pretrain=1500, train=3000, val=300, test=300)
    return worlds.create(config.emoji, SPRITES, config.seed)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "data"
    prepare.run(small(), SPRITES, out)
    return out


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder: parameters, data, tokenizer and a random model of every stage."""
    root = tmp_path_factory.mktemp("project")
    config = tiny_config()
    artifacts = color_world(root / "artifacts", images=16)
    write_params(config, root / "params.yaml")
    for task in registry.names():
        folder = artifacts / "finetune" / task if registry.spec(task).fine_tuning else artifacts / task
        checkpoint.save(random_model(artifacts, config, task=task), folder / "model.pth")
    return root
