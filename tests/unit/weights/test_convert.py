"""Tests of converting published checkpoints."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from albef import cli
from albef.config import Config
from albef.models.albef import ALBEF
from albef.models.vision import resize_positions
from albef.tasks import registry
from albef.weights import checkpoint, convert
from albef.weights.infer_config import infer_config
from albef.weights.official import CheckpointError, LoadReport, load_official, read_official, to_official
from tests.errors import refuses
from tests.parity.harness import HEADS, folder
from tests.worlds import tiny_config, write_params

VOCABULARY = 64
CASES = sorted(folder().glob("*.pth"))
POSITION_IDS = re.compile(r"position_ids$")


def config(**model: Any) -> Config:
    base = tiny_config()
    sizes = dataclasses.replace(base.model, vision=dataclasses.replace(base.model.vision, stem="patch"))
    return dataclasses.replace(base, model=dataclasses.replace(sizes, **model))


def official(task: str = "pretrain", seed: int = 0, **model: Any) -> dict[str, Tensor]:
    """A checkpoint in the layout of a task, its teacher unlike its student."""
    torch.manual_seed(seed)
    built = ALBEF(config(**model).model, VOCABULARY, task)
    with torch.no_grad():
        for parameter in built.teacher.parameters() if built.architecture.teacher else []:
            parameter.add_(torch.randn_like(parameter))
    return to_official(built.state_dict(), built.config.text.layers, task)


def imported(tmp_path: Path, data: Any, given: Config | None = None, task: str | None = None) -> ALBEF:
    torch.save(data, tmp_path / "source.pth")
    convert.import_official(given or config(), tmp_path / "source.pth", tmp_path / "out", task)
    return checkpoint.load(tmp_path / "out/model.pth")[0]


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype, name
        assert torch.equal(value, right[name]), name


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_official_codes_own_files_go_round(path: Path, tmp_path: Path) -> None:
    state = torch.load(path, weights_only=True)["model"]
    fixed = {"momentum": 0.995, "temperature": 0.07, "official_quirks": True, "queue_size": 16, "projection": 32}
    base = tiny_config()
    base = dataclasses.replace(base, model=infer_config(state, HEADS, HEADS, **fixed))
    convert.import_official(base, path, tmp_path)
    convert.export_official(tmp_path, tmp_path / "again.pth")
    assert_same(
        torch.load(tmp_path / "again.pth", weights_only=True)["model"],
        {name: value for name, value in state.items() if not POSITION_IDS.search(name)},
    )


@pytest.mark.parametrize("task", registry.names())
@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "bare"])
def test_every_layout_goes_round(task: str, wrapped: bool, tmp_path: Path) -> None:
    state = official(task)
    extra = {f"{n.rpartition('.')[0]}.position_ids": torch.arange(64)[None] for n in state if "position_embed" in n}
    data = {**state, **extra}
    model = imported(
        tmp_path,
        {"model": data, "optimizer": {"state": {}}, "config": {"temp": 0.07}, "epoch": 3} if wrapped else data,
        task="grounding" if task == "grounding" else None,
    )
    assert model.task == task
    convert.export_official(tmp_path / "out", tmp_path / "again.pth")
    assert_same(torch.load(tmp_path / "again.pth", weights_only=True)["model"], state)


def test_another_image_size_interpolates_student_and_teacher(tmp_path: Path) -> None:
    state = official("vqa", image_size=64)
    given = config(image_size=48)
    vqa = dataclasses.replace(given.tasks.vqa, train=dataclasses.replace(given.tasks.vqa.train, image_size=96))
    given = dataclasses.replace(given, tasks=dataclasses.replace(given.tasks, vqa=vqa))
    model = imported(tmp_path, state, given)
    assert model.config.image_size == 96
    for tower, name in ((model.student, "visual_encoder"), (model.teacher, "visual_encoder_m")):
        assert torch.equal(tower.vision.vit.pos_embed, resize_positions(state[f"{name}.pos_embed"], 37))


def test_vqa_from_pretraining_starts_its_decoder(tmp_path: Path) -> None:
    state = official()
    model = imported(tmp_path, state, task="vqa")
    after = to_official(model.state_dict(), model.config.text.layers, "vqa")
    for m in ("", "_m"):
        source, target = f"text_encoder{m}.bert.", f"text_decoder{m}.bert."
        assert torch.equal(
            after[f"{target}embeddings.word_embeddings.weight"], state[f"{source}embeddings.word_embeddings.weight"]
        )
        for layer in range(2):  # after one text layer
            for part in ("attention.self.query", "crossattention.output.dense", "output.LayerNorm"):
                name = f"encoder.layer.{{}}.{part}.weight"
                assert torch.equal(after[target + name.format(layer)], state[source + name.format(layer + 1)]), name
        head = "cls.predictions.transform.dense.weight"
        assert torch.equal(after[f"text_decoder{m}.{head}"], state[f"text_encoder{m}.{head}"])


def test_nlvr2_from_pretraining_doubles_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = official()
    model = imported(tmp_path, state, task="nlvr2")
    after = to_official(model.state_dict(), model.config.text.layers, "nlvr2")
    for m in ("", "_m"):
        for layer, twins in ((1, (1, 2)), (2, (3, 4))):
            for twin in twins:
                part = "encoder.layer.{}.crossattention.self.query.weight"
                assert torch.equal(
                    after[f"text_encoder{m}.{part.format(twin)}"], state[f"text_encoder{m}.bert.{part.format(layer)}"]
                )
    assert "(8):\n  student.cls_head.0.weight" in capsys.readouterr().out


def test_nlvr2_from_text_assignment_copies_the_teacher(tmp_path: Path) -> None:
    model = imported(tmp_path, official("text_assignment"), task="nlvr2")
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, model.student.state_dict()[name]), name


def test_layers_of_pairs_make_no_single_ones(tmp_path: Path) -> None:
    with refuses(CheckpointError, "vqa", "nlvr2"):
        imported(tmp_path, official("nlvr2"), task="vqa")


def test_an_import_is_the_same_each_time(tmp_path: Path) -> None:
    one = imported(tmp_path, state := official(), task="entailment").state_dict()
    assert_same(one, imported(tmp_path, state, task="entailment").state_dict())


def test_prefix_of_a_distributed_model(tmp_path: Path) -> None:
    state = official("retrieval")
    model = imported(tmp_path, {f"module.{name}": value for name, value in state.items()})
    assert_same(to_official(model.state_dict(), model.config.text.layers, "retrieval"), state)


def test_bert_prefix_without_an_mlm_head(tmp_path: Path) -> None:
    state = official("retrieval")
    renamed = {re.sub(r"^(text_encoder(?:_m)?)\.", r"\1.bert.", name): value for name, value in state.items()}
    model = imported(tmp_path, renamed)
    assert_same(to_official(model.state_dict(), model.config.text.layers, "retrieval"), state)


def test_what_is_missing_and_unexpected_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = official("retrieval")
    del state["vision_proj_m.weight"], state["idx_queue"]
    model = imported(tmp_path, {**state, "stranger": torch.zeros(1), "logit_scale": torch.zeros(1)})
    out = capsys.readouterr().out
    assert "(2):\n  vision_proj_m.weight\n  idx_queue\n" in out
    assert "(2):\n  stranger\n  logit_scale\n" in out
    assert torch.equal(model.teacher.vision_proj.weight, model.student.vision_proj.weight)


def test_every_size_that_differs_is_told_at_once(tmp_path: Path) -> None:
    given = config(projection=8, patch_size=8)
    text = dataclasses.replace(given.model.text, layers=2, ffn=32, decoder_layers=6)
    given = dataclasses.replace(given, model=dataclasses.replace(given.model, text=text))
    with refuses(CheckpointError, 8, 16, 2, 1, 32, 64) as caught:
        imported(tmp_path, official(), given)
    sizes = re.findall(r"\bmodel\.([\w.]+) is (\d+)", str(caught.value))
    assert sizes == [("patch_size", "8"), ("text.layers", "2"), ("text.ffn", "32"), ("projection", "8")]
    given = dataclasses.replace(config(), model=dataclasses.replace(config().model, text=text))
    with refuses(CheckpointError, "model.text.decoder_layers", 6, 2):
        imported(tmp_path, official("vqa"), given)


def test_a_queue_of_another_size_stays_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = imported(tmp_path, official(queue_size=48))
    assert len(model.queue) == 32
    assert "(2):\n  image_queue\n  text_queue" in capsys.readouterr().out


PRETRAIN = official()
REQUIRED = [name for name in PRETRAIN if "_m." not in name and "queue" not in name and ".decoder." not in name]


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(REQUIRED), st.sampled_from(["absent", "longer", "scalar", "deeper"]))
def test_a_tensor_that_is_absent_or_of_another_shape_is_named(name: str, how: str) -> None:
    state = dict(PRETRAIN)
    value = state.pop(name)
    if how != "absent":
        longer = torch.cat([value, value]) if value.ndim else value[None]
        state[name] = {"longer": longer, "scalar": longer.sum(), "deeper": longer[None]}[how]
    if how == "scalar" and value.ndim == 0:
        return
    with refuses(CheckpointError, name):
        load_official(ALBEF(config().model, VOCABULARY), state)


def test_tensors_that_are_one_must_be_equal() -> None:
    state = official("nlvr2")
    name = "text_encoder.encoder.layer.4.crossattention.self.key.weight"
    state[name] = state[name] + 1
    with refuses(CheckpointError, name, name.replace("layer.4", "layer.3")):
        load_official(ALBEF(config().model, VOCABULARY, "nlvr2"), state)
    state = official()
    name = "text_encoder.cls.predictions.decoder.weight"
    state[name] = state[name] + 1
    with refuses(CheckpointError, name, "word_embeddings.weight"):
        load_official(ALBEF(config().model, VOCABULARY), state)


def test_settings_of_argparse_are_plain_data(tmp_path: Path) -> None:
    state = official("retrieval")
    torch.save({"model": state, "config": argparse.Namespace(lr=1e-5, dist=None)}, tmp_path / "a.pth")
    assert_same(read_official(tmp_path / "a.pth"), state)


def test_objects_of_a_library_are_refused_with_a_way_out(tmp_path: Path) -> None:
    from ruamel.yaml.comments import CommentedMap

    torch.save({"model": official("retrieval"), "config": CommentedMap(lr=1e-5)}, tmp_path / "a.pth")
    with refuses(CheckpointError, "a.pth", "ruamel.yaml.comments.CommentedMap", "torch.save"):
        read_official(tmp_path / "a.pth")


@pytest.mark.parametrize("data", [{}, {"model": {}}, [1], {"epoch": 3}, {"model": {"a": 1}}, {1: torch.zeros(1)}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, data: Any) -> None:
    torch.save(data, tmp_path / "a.pth")
    with refuses(CheckpointError, "a.pth"):
        read_official(tmp_path / "a.pth")


def test_an_unknown_layout_names_the_file(tmp_path: Path) -> None:
    with refuses(CheckpointError, "source.pth", "itm_head.weight"):
        imported(tmp_path, {"weight": torch.zeros(1)})


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = write_params(config(), tmp_path / "params.yaml")
    torch.save({"model": official()}, tmp_path / "ALBEF.pth")
    argv = ["import-checkpoint", str(tmp_path / "ALBEF.pth"), "--params", str(params), "--out", str(tmp_path / "m")]
    assert cli.main([*argv, "--task", "grounding"]) == 0
    argv_out = ["export-checkpoint", "--model", str(tmp_path / "m"), "--out", str(tmp_path / "new/g.pth")]
    assert cli.main([*argv_out, "--student-only"]) == 0
    assert not [name for name in read_official(tmp_path / "new/g.pth") if "_m." in name or "queue" in name]
    assert cli.main([*argv, "--task", "poetry"]) == 2
    error = capsys.readouterr().err
    assert "'poetry'" in error
    assert "pretrain" in error


def test_report_of_a_whole_file_is_empty() -> None:
    assert load_official(ALBEF(config().model, VOCABULARY), PRETRAIN) == LoadReport([], [])
