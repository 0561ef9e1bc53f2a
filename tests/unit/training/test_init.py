"""Tests of pretraining from pretrained parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from albef.config import Config, InitConfig
from albef.data.tokenizer import Encoder
from albef.training import run, state
from albef.training.state import fingerprint
from albef.weights import checkpoint
from tests.worlds import color_world, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_world(tmp_path_factory.mktemp("init") / "world", images=16)


def standing_still() -> Config:
    """Return a configuration of one epoch that leaves the model unchanged."""
    config = tiny_config(epochs=1)
    optim = dataclasses.replace(config.pretrain.optim, lr=0.0, min_lr=0.0, warmup_lr=0.0)
    return dataclasses.replace(
        config,
        pretrain=dataclasses.replace(config.pretrain, optim=optim),
        tokenizer=dataclasses.replace(config.tokenizer, kind="bert"),
    )


def test_pretraining_starts_from_the_parts(world: Path, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    config = standing_still()
    words = Encoder.from_file(world / "tokenizer/tokenizer.json").vocab_size
    text = config.model.text
    torch.manual_seed(0)
    bert = BertForMaskedLM(
        BertConfig(
            vocab_size=words,
            hidden_size=text.width,
            num_hidden_layers=text.layers + text.fusion_layers,
            num_attention_heads=text.heads,
            intermediate_size=text.ffn,
            max_position_embeddings=text.max_positions,
        )
    )
    bert.save_pretrained(tmp_path / "bert")
    config = dataclasses.replace(config, init=InitConfig(vision=None, text=str(tmp_path / "bert")))
    folders = (world / "lists", world, world / "tokenizer", tmp_path / "out")
    run.run(config, "pretrain", *folders, work_dir=tmp_path / "scratch", tracking_uri="none")
    model, _ = checkpoint.load(tmp_path / "out/model.pth")
    for tower in (model.student, model.teacher):
        torch.testing.assert_close(tower.text.embeddings.word.weight, bert.bert.embeddings.word_embeddings.weight)
        query = bert.bert.encoder.layer[text.layers].attention.self.query.weight
        torch.testing.assert_close(tower.fusion.layers[0].attention.qkv.weight[: text.width], query)


def test_other_parts_are_another_run() -> None:
    config = tiny_config()
    one, other = (dataclasses.replace(config, init=InitConfig(vision=None, text=name)) for name in ("a", "b"))
    assert fingerprint("pretrain", one, []) != fingerprint("pretrain", other, [])
    assert fingerprint("retrieval", one, []) == fingerprint("retrieval", other, [])


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"log_every": 7}, True),
        ({"num_workers": 3}, True),
        ({"checkpoint_every": 9}, True),
        ({"max_bad_share": 0.3}, True),
        ({"alpha": 0.1}, False),
    ],
)
def test_a_run_is_known_by_what_decides_its_results(change: dict[str, Any], same: bool) -> None:
    for task in ("pretrain", "retrieval"):
        changed = fingerprint(task, tiny_config(**change), "data")
        assert (fingerprint(task, tiny_config(), "data") == changed) is same


def test_code_that_decides_results_exists() -> None:
    package = Path(state.__file__).parents[1]
    assert all((package / name).exists() for name in state._SOURCES)
