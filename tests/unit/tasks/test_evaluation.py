"""Tests of the evaluation stage of every task."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from albef.data.tokenizer import Encoder
from albef.inference.boxes import iou
from albef.models.albef import ALBEF
from albef.tasks.evaluation import EvaluationError, run
from albef.tasks.grounding.spec import default_block
from albef.tasks.grounding.word_maps import tokens_of_words
from albef.tasks.job import spaced
from albef.tasks.registry import UnknownTaskError, models_for
from albef.tasks.vqa.evaluate import kind_of, vqa_accuracy
from albef.weights import checkpoint
from tests.errors import refuses
from tests.worlds import color_world, tiny_config

CONFIG = tiny_config()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_world(tmp_path_factory.mktemp("world"), images=16)


def evaluated(world: Path, out: Path, task: str, model: str | None = None) -> Path:
    encoder = Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    torch.manual_seed(0)
    checkpoint.save(ALBEF(CONFIG.model, encoder.vocab_size, model or task), out / "model" / "model.pth")
    run(CONFIG, task, out / "model", world / "lists", world, world / "tokenizer", out / "result")
    return out / "result"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("model", ["retrieval", "pretrain"])
def test_retrieval_also_zero_shot(world: Path, tmp_path: Path, model: str) -> None:
    out = evaluated(world, tmp_path, "retrieval", model)
    metrics, examples = read(out / "metrics.json"), read(out / "shown" / "examples.json")
    assert {"ir_r1", "tr_r10", "itc_ir_r1", "r_mean"} <= set(metrics)
    assert len(table(out / "plots" / "recall.csv")) == 12
    assert len(examples["text_to_image"]) == len(examples["image_to_text"]) == 8
    assert len(examples["text_to_image"][0]["ranked"]) == 5


def test_vqa(world: Path, tmp_path: Path) -> None:
    out = evaluated(world, tmp_path, "vqa")
    metrics, examples = read(out / "metrics.json"), read(out / "shown" / "examples.json")["examples"]
    records = {r["question_id"]: r for r in read(world / "lists" / "vqa_test.json")}
    submission = read(out / "shown" / "submission.json")
    assert [row["question_id"] for row in submission] == list(records)
    scores = [vqa_accuracy(row["answer"], records[row["question_id"]]["answer"]) for row in submission]
    assert metrics["accuracy"] == pytest.approx(sum(scores) / len(scores))
    # 7 of 10 people answer "red" for 2 of 16 images; no color is more frequent.
    assert 0 < metrics["chance"] < 0.5
    rows = table(out / "plots" / "answers.csv")
    assert [(row["kind"], row["questions"]) for row in rows] == [("other", "16")]
    assert float(rows[0]["accuracy"]) == pytest.approx(metrics["accuracy"], abs=1e-4)
    for example in examples:
        chances = [answer["probability"] for answer in example["answers"]]
        assert chances == sorted(chances, reverse=True)
        assert sum(example["people"].values()) == 10
        for answer in example["answers"]:
            given = [a for a, count in example["people"].items() for _ in range(count)]
            assert answer["accuracy"] == pytest.approx(vqa_accuracy(answer["answer"], given), abs=1e-4)


def test_vqa_without_answers_gives_the_submission_alone(world: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    records = read(world / "lists" / "vqa_test.json")
    for record in records:
        del record["answer"]
    (lists / "vqa_test.json").write_text(json.dumps(records))
    (lists / "answer_list.json").write_text((world / "lists" / "answer_list.json").read_text())
    evaluated(world, tmp_path, "vqa")
    run(CONFIG, "vqa", tmp_path / "model", lists, world, world / "tokenizer", tmp_path / "result")
    assert read(tmp_path / "result" / "metrics.json") == {}
    assert len(read(tmp_path / "result" / "shown" / "submission.json")) == len(records)
    assert table(tmp_path / "result" / "plots" / "answers.csv") == []
    assert read(tmp_path / "result" / "shown" / "examples.json")["examples"][0]["answers"][0]["accuracy"] is None


@pytest.mark.parametrize(("task", "classes"), [("entailment", 3), ("nlvr2", 2)])
def test_classification(world: Path, tmp_path: Path, task: str, classes: int) -> None:
    out = evaluated(world, tmp_path, task)
    metrics, examples = read(out / "metrics.json"), read(out / "shown" / "examples.json")
    rows = table(out / "plots" / "confusion.csv")
    assert len(rows) == 16
    right = sum(row["actual"] == row["predicted"] for row in rows)
    assert metrics["accuracy"] == pytest.approx(right / 16)
    most = max(sum(row["actual"] == name for row in rows) for name in examples["classes"])
    assert metrics["chance"] == pytest.approx(most / 16)
    assert len(examples["classes"]) == classes
    for example in examples["examples"]:
        assert example["label"] in examples["classes"]
        assert len(example["images"]) == (2 if task == "nlvr2" else 1)
        assert sum(example["probabilities"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("model", ["grounding", "pretrain"])
def test_grounding_in_both_modes_with_maps(world: Path, tmp_path: Path, model: str) -> None:
    out = evaluated(world, tmp_path, "grounding", model)
    metrics, found = read(out / "metrics.json"), read(out / "shown" / "examples.json")
    assert {"accuracy", "pointing", "itc_accuracy", "itc_pointing", "accuracy_test", "chance"} <= set(metrics)
    assert metrics["chance"] == pytest.approx(0.25)  # one of four boxes is the true one
    assert found["mode"] == CONFIG.tasks.grounding.evaluate.mode
    curve = {(row["mode"], row["threshold"]): float(row["accuracy"]) for row in table(out / "plots" / "iou.csv")}
    assert curve["itm", "0.5"] == pytest.approx(metrics["accuracy"], abs=1e-4)
    assert curve["itc", "0.5"] == pytest.approx(metrics["itc_accuracy"], abs=1e-4)
    assert len(list((out / "shown" / "maps").iterdir())) == len(found["examples"]) == 8
    for example in found["examples"]:
        assert example["chosen"] in example["proposals"]
        assert example["iou"] == pytest.approx(iou(example["chosen"], example["box"]), abs=1e-4)
        assert len(example["map"]) == len(example["map"][0]) == 2
        words = len(example["text"].split())
        with Image.open(out / "shown" / example["words"]) as image:
            assert image.width == (1 + words) * 196 + 4  # the image, then one panel per word
            panels = np.asarray(image.convert("RGB")).astype(int)[18:-4]
        for word in range(words):
            first = 4 + 196 * (1 + word)
            plain = panels[20:76, 20:172]  # within both frames of the upper half
            assert np.abs(panels[20:76, first + 16 : first + 168] - plain).max() > 20, example["text"]


def test_a_model_of_another_task_is_refused(world: Path, tmp_path: Path) -> None:
    with refuses(EvaluationError, "model.pth", "'vqa'", "entailment"):
        evaluated(world, tmp_path, "entailment", "vqa")
    assert models_for("retrieval") == ["pretrain", "retrieval", "grounding"]
    assert models_for("nlvr2") == ["nlvr2"]
    assert not (tmp_path / "result").exists()


def test_an_unknown_task_is_named(world: Path, tmp_path: Path) -> None:
    with refuses(UnknownTaskError, "'guess'"):
        run(CONFIG, "guess", tmp_path, world, world, world, tmp_path)


@given(st.integers(1, 1000))
def test_examples_reach_both_ends(count: int) -> None:
    rows = spaced(count)
    assert rows[0] == 0
    assert rows[-1] == count - 1 or len(rows) == 1
    assert len(set(rows)) == len(rows) == min(8, count)


def test_pieces_of_a_word_belong_together() -> None:
    assert tokens_of_words(["[CLS]", "a", "gir", "##aff", "##e", "?", "[PAD]"]) == [
        ("a", [1]),
        ("giraffe", [2, 3, 4]),
        ("?", [5]),
    ]


def test_kinds_of_questions() -> None:
    assert kind_of(["yes"] * 6 + ["2"] * 4) == "yes/no"
    assert kind_of(["two"] * 6 + ["yes"] * 4) == "number"
    assert kind_of(["red"]) == "other"


def test_default_blocks_are_the_official_ones_at_official_depth() -> None:
    import dataclasses

    text = dataclasses.replace(CONFIG.model.text, fusion_layers=6)
    config = dataclasses.replace(CONFIG.model, text=text, vision=dataclasses.replace(CONFIG.model.vision, depth=12))
    assert (default_block(config, "itm"), default_block(config, "itc")) == (2, 8)
