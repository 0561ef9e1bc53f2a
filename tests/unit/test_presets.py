"""Tests of presets against the paper and the official configuration files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from albef import cli, presets
from albef.config import Config, ConfigError, PretrainConfig, TrainConfig, load
from albef.data.schema import EXTRAS, LISTS
from albef.models.albef import ALBEF
from albef.tasks import registry
from tests.errors import refuses

NAMES = list(presets.names())

COLUMNS = (
    "pretrain", "text_assignment", "coco", "flickr", "vqa", "entailment", "nlvr2", "grounding",
)  # fmt: skip
# The official files pretrain.yaml, NLVR_pretrain.yaml, Retrieval_coco.yaml, Retrieval_flickr.yaml, VQA.yaml, VE.yaml,
# NLVR.yaml and Grounding.yaml; batches are those of one of eight GPUs, warm-up counts in steps (100 for each of
# theirs).
TABLE: dict[str, tuple[Any, ...]] = {
    "image_size":             (256,  256,  384,  384,  384,  384,  384,  384),
    "device_batch_size":      (64,   64,   32,   32,   32,   32,   16,   32),
    "test batch":             (None, None, 64,   64,   16,   64,   16,   32),
    "epochs":                 (30,   1,    5,    10,   8,    5,    10,   5),
    "optim.lr":               (1e-4, 2e-5, 1e-5, 1e-5, 2e-5, 2e-5, 2e-5, 1e-5),
    "optim.min_lr":           (1e-5, 1e-5, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6),
    "optim.warmup_lr":        (1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5),
    "optim.warmup_steps":     (2000, 100,  100,  100,  400,  100,  100,  100),
    "optim.weight_decay":     (.02,  .02,  .02,  .02,  .02,  .02,  .02,  .02),
    "alpha":                  (.4,   0.0,  .4,   .4,   .4,   .4,   .4,   .4),
    "alpha_ramp_epochs":      (1.0,  0.0,  1.0,  1.0,  1.0,  0.0,  1.0,  1.0),
    "k_test":                 (None, None, 256,  128,  128,  None, None, None),
    "max_words":              (30,   30,   30,   30,   50,   30,   30,   30),
    "max_tokens":             (25,   25,   None, None, 25,   None, None, None),
}  # fmt: skip
# The same everywhere in the official code: AdamW's own second moment, no clipping, a cosine that steps once an epoch.
EVERYWHERE = {
    "optim.beta2": 0.999,
    "optim.clip": 0.0,
    "optim.temperature_lr_scale": 1.0,
    "optim.schedule": "epoch",
    "augment": "randaugment",
    "precision": "bf16",
}
MODEL = {
    "patch_size": 16,
    "vision.width": 768,
    "vision.depth": 12,
    "vision.heads": 12,
    "vision.stem": "patch",
    "vision.drop_path": 0.0,
    "text.width": 768,
    "text.layers": 6,
    "text.fusion_layers": 6,
    "text.decoder_layers": 6,
    "text.heads": 12,
    "text.ffn": 3072,
    "text.max_positions": 512,
    "text.dropout": 0.1,
    "projection": 256,
    "queue_size": 65536,
    "momentum": 0.995,
    "temperature": 0.07,
    "official_quirks": True,
}


def preset(name: str, folder: Path) -> Config:
    presets.write(name, folder / "params.yaml")
    return load(folder / "params.yaml")


def value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def column(config: Config, name: str) -> tuple[TrainConfig, Any]:
    """Training and evaluation parameters of a column of the table."""
    if name in ("pretrain", "text_assignment"):
        return getattr(config, name), None
    section = getattr(config.tasks, {"coco": "retrieval", "flickr": "retrieval"}.get(name, name))
    return section.train, section.evaluate


@pytest.mark.parametrize("name", NAMES)
def test_hyper_parameters_are_those_of_the_table(name: str, tmp_path: Path) -> None:
    config = preset(name, tmp_path)
    for number, task in enumerate(COLUMNS):
        if task == ("coco" if name.endswith("flickr") else "flickr"):
            continue
        train, evaluate = column(config, task)
        for key, row in TABLE.items():
            expected = row[number]
            if key == "image_size":
                found = train.image_size or config.model.image_size
            elif key == "test batch":
                found = evaluate.batch_size if evaluate is not None else None
            elif key == "k_test":
                found = getattr(evaluate, "shortlist", None)
            else:
                found = value(train, key)
            assert found == expected, f"{name}, {task}: {key}"
        for key, expected in EVERYWHERE.items():
            assert value(train, key) == expected, f"{name}, {task}: {key}"
        assert train.batch_size == 8 * train.device_batch_size
        assert train.parts(config.distributed.world_size) == (1 if config.distributed.world_size == 8 else 8)
    assert config.distributed.world_size == (1 if name.startswith(("paper-1gpu", "finetune")) else 8)
    assert config.tasks.retrieval.train.eval_tokens == 30
    assert config.tasks.vqa.train.eval_tokens == config.model.text.max_positions


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_the_papers(name: str, tmp_path: Path) -> None:
    config = preset(name, tmp_path)
    for key, expected in MODEL.items():
        assert value(config.model, key) == expected, f"{name}: model.{key}"
    assert (config.tokenizer.kind, config.tokenizer.source) == ("bert", "bert-base-uncased")
    assert config.init is not None
    assert (config.init.vision, config.init.text) == ("timm:deit_base_patch16_224", "bert-base-uncased")
    assert config.pretrain.mask_probability == 0.15
    own = {field.name for field in dataclasses.fields(PretrainConfig)} - {
        field.name for field in dataclasses.fields(TrainConfig)
    }
    others = {"mask_probability", "gather_negatives", "mixing_temperature", "captions"}
    assert all(getattr(config.pretrain, switch) for switch in own - others)
    assert (config.pretrain.mixing_temperature, config.pretrain.captions) == (None, "random")
    assert not config.pretrain.gather_negatives
    assert config.tasks.retrieval.evaluate.score == "itm"
    assert config.tasks.vqa.evaluate.mode == "rank"
    assert (config.tasks.grounding.evaluate.mode, config.tasks.grounding.evaluate.block) == ("itm", 2)


@pytest.mark.parametrize("task", registry.names())
def test_a_preset_builds_the_model_of_every_task(task: str, tmp_path: Path) -> None:
    config = preset("paper-4m", tmp_path)
    with torch.device("meta"):
        model = ALBEF(config.model, config.tokenizer.vocab_size, task)
    student = sum(p.numel() for p in model.student.parameters())
    fewest = {"vqa": 260, "nlvr2": 250, "text_assignment": 250}.get(task, 200)  # millions; paper: 210
    assert fewest < student / 1e6 < fewest + 40


def test_lists_are_those_of_the_data() -> None:
    for name in NAMES:
        assert set(files(name)) <= {*LISTS, *EXTRAS}, name


def files(name: str) -> dict[str, list[str]]:
    """The lists of a preset."""
    from ruamel.yaml import YAML

    lists = YAML(typ="safe").load(presets.content(name))["prepare"]["lists"]
    known = {*lists["files"], *(file for names in lists["files"].values() for file in names)}
    assert set(lists["folders"]) <= known, name
    return dict(lists["files"])


def test_four_million_images_are_without_cc12m() -> None:
    many, few = (files(f"paper-{size}")["pretrain"] for size in ("14m", "4m"))
    assert set(many) - set(few) == {"cc12m.json"}
    assert len(few) == 5
    others = {name: names for name, names in files("paper-14m").items() if name != "text_assignment"}
    assert others | {"pretrain": few} == files("paper-4m")


def test_flickr_has_its_own_lists() -> None:
    assert files("paper-4m-flickr")["retrieval_train"] == ["flickr30k_train.json"]
    assert files("paper-4m-flickr")["pretrain"] == files("paper-4m")["pretrain"]
    assert files("paper-4m")["retrieval_test"] == ["coco_test.json"]


def test_a_finetune_preset_asks_for_its_own_lists_only() -> None:
    assert set(files("finetune-vqa")) == {"vqa_train", "vqa_val", "vqa_test", "answer_list"}
    assert set(files("finetune-nlvr2")) == {"pretrain", "nlvr_train", "nlvr_val", "nlvr_test"}
    assert files("finetune-nlvr2")["pretrain"] == files("paper-4m")["pretrain"]


def test_nothing_is_overwritten_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "params.yaml"
    out.write_text("mine")
    assert cli.main(["preset", "paper-4m", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "params.yaml" in error
    assert "--force" in error
    assert out.read_text() == "mine"
    assert cli.main(["preset", "paper-4m", "--out", str(out), "--force"]) == 0
    assert out.read_text() == presets.content("paper-4m")
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["preset"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name} " in out for name in NAMES)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with refuses(ConfigError, "'paper'", "paper-14m", "paper-4m"):
        presets.content("paper")
    with refuses(ConfigError, "demo", "params.yaml"):
        presets.content("demo")


def test_text_assignment_uses_four_million_images() -> None:
    for name in presets.names():
        lists = files(name)
        if "nlvr_train" in lists:
            assert lists.get("text_assignment", lists["pretrain"]) == files("paper-4m")["pretrain"], name
