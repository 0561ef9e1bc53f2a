"""Training samples of the downstream tasks: answers with their weights, and batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from albef.data.questions import QuestionDataset, weighted_answers
from albef.data.statements import StatementDataset
from albef.data.tokenizer import Encoder
from tests.worlds import colour_world, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_world(tmp_path_factory.mktemp("samples") / "world", images=24)


@pytest.fixture(scope="module")
def encoder(world: Path) -> Encoder:
    return Encoder.from_file(world / "tokenizer" / "tokenizer.json")


@pytest.mark.parametrize(
    ("answer", "dataset", "expected"),
    [
        (["red"] * 7 + ["dark red"] * 3, "vqa", {"red": 0.7, "dark red": 0.3}),
        (["2"] * 3 + ["3"] * 3 + ["4"], "vqa", {"2": 3 / 7, "3": 3 / 7, "4": 1 / 7}),
        (["yes"] * 10, "vqa", {"yes": 1.0}),
        ("yes", "vqa", {"yes": 1.0}),
        ("a dog", "vg", {"a dog": 0.5}),
        (["a dog"], "vg", {"a dog": 0.5}),
    ],
)
def test_weights_are_shares_of_people(answer: str | list[str], dataset: str, expected: dict[str, float]) -> None:
    assert weighted_answers({"answer": answer, "dataset": dataset}) == pytest.approx(expected)


def test_a_batch_of_questions_tells_whose_answers_are_whose(world: Path, encoder: Encoder) -> None:
    config = tiny_config(augment="none")
    dataset = QuestionDataset.from_list(world / "lists" / "vqa_train.json", world, config.model, config.tasks.vqa.train)
    batch = dataset.collate(encoder, [dataset[0, row] for row in (0, 3, 5)])
    assert batch["image"].shape == (3, 3, 32, 32)
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    # Row 3 is Visual Genome's: one answer of weight 0.5; the others have two.
    assert batch["answer_question"].tolist() == [0, 0, 1, 2, 2]
    assert batch["answer_weight"].tolist() == pytest.approx([0.7, 0.3, 0.5, 0.7, 0.3])
    words = [
        encoder.tokenizer.decode(row[: int(mask.sum())], skip_special_tokens=False)
        for row, mask in zip(batch["answer_ids"].tolist(), batch["answer_mask"], strict=True)
    ]
    wanted = [a for row in (0, 3, 5) for a in weighted_answers(dataset.records[row])]
    assert words == [f"[CLS] {answer} [SEP]" for answer in wanted]
    assert set(batch["input_ids"][:, 0].tolist()) == {encoder.cls}
    assert not (batch["input_ids"] == encoder.sep).any()


def test_all_first_pictures_come_before_all_second_ones(world: Path, encoder: Encoder) -> None:
    config = tiny_config(augment="none")
    dataset = StatementDataset.from_list(
        world / "lists" / "nlvr_train.json", world, config.model, config.tasks.nlvr2.train
    )
    rows = (1, 4, 9)
    samples = [dataset[0, row] for row in rows]
    batch = dataset.collate(encoder, samples)
    assert batch["image"].shape == (6, 3, 32, 32)
    for place in (0, 1):
        for index, row in enumerate(rows):
            alone = dataset.pixels(dataset.records[row]["images"][place], "", np.random.default_rng(0))
            assert torch.equal(batch["image"][3 * place + index], torch.from_numpy(alone))
    # Class 0 is False, class 1 is True.
    assert batch["label"].tolist() == [int(dataset.records[row]["label"] == "True") for row in rows]


def test_entailment_has_one_picture_and_the_official_classes(world: Path, encoder: Encoder) -> None:
    config = tiny_config()
    dataset = StatementDataset.from_list(
        world / "lists" / "ve_train.json", world, config.model, config.tasks.entailment.train
    )
    batch = dataset.collate(encoder, [dataset[0, row] for row in range(3)])
    assert batch["image"].shape == (3, 3, 32, 32)
    assert [dataset.records[row]["label"] for row in range(3)] == ["entailment", "contradiction", "neutral"]
    assert batch["label"].tolist() == [2, 0, 1]
