"""Tests of training samples and batches of the downstream tasks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from albef.data.lists import Images, Lists, Rows
from albef.data.loader import EpochSampler, TrainLoader
from albef.data.tokenizer import Encoder
from albef.tasks.classification_data import ClassificationDataset
from albef.tasks.vqa.train import QuestionDataset, weighted_answers
from tests.worlds import color_world, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_world(tmp_path_factory.mktemp("samples") / "world", images=24)


def lists_of(world: Path) -> Lists:
    return Lists(world / "lists", world)


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
    dataset = QuestionDataset.of(lists_of(world)["vqa_train"], config.model, config.tasks.vqa.train)
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
    wanted = [a for row in (0, 3, 5) for a in weighted_answers(dataset.rows[row])]
    assert words == [f"[CLS] {answer} [SEP]" for answer in wanted]
    assert set(batch["input_ids"][:, 0].tolist()) == {encoder.cls}
    assert not (batch["input_ids"] == encoder.sep).any()


def test_all_first_images_come_before_all_second_ones(world: Path, encoder: Encoder) -> None:
    config = tiny_config(augment="none")
    dataset = ClassificationDataset.of(lists_of(world)["nlvr_train"], config.model, config.tasks.nlvr2.train)
    rows = (1, 4, 9)
    samples = [dataset[0, row] for row in rows]
    batch = dataset.collate(encoder, samples)
    assert batch["image"].shape == (6, 3, 32, 32)
    for place in (0, 1):
        for index, row in enumerate(rows):
            image = dataset.rows.images(row, dataset.rows[row])[place]
            alone = dataset.pixels(image, "", np.random.default_rng(0))
            assert torch.equal(batch["image"][3 * place + index], torch.from_numpy(alone))
    # Class 0 is False, class 1 is True.
    assert batch["label"].tolist() == [int(dataset.rows[row]["label"] == "True") for row in rows]


def test_entailment_has_one_image_and_the_official_classes(world: Path, encoder: Encoder) -> None:
    config = tiny_config()
    dataset = ClassificationDataset.of(lists_of(world)["ve_train"], config.model, config.tasks.entailment.train)
    batch = dataset.collate(encoder, [dataset[0, row] for row in range(3)])
    assert batch["image"].shape == (3, 3, 32, 32)
    assert [dataset.rows[row]["label"] for row in range(3)] == ["entailment", "contradiction", "neutral"]
    assert batch["label"].tolist() == [2, 0, 1]


def test_statements_of_one_image_share_it(world: Path, encoder: Encoder, tmp_path: Path) -> None:
    config = tiny_config(augment="randaugment", batch_size=6)
    records = json.loads((world / "lists" / "nlvr_train.json").read_text())[:8]
    swapped = [{**record, "images": record["images"][::-1]} for record in records]
    same = [{**record, "sentence": "a dog is left of a cat"} for record in records]
    train = dataclasses.replace(config.tasks.nlvr2.train, share_images=True)
    dataset = ClassificationDataset(Rows([*records, *swapped, *same], Images(world)), 32, train)
    assert dataset.groups is not None
    # Row 8 follows row 7 and shares an image with it.
    assert dataset.groups.tolist() == [*range(8), 7, *range(9, 16), *range(8)]
    batch = dataset.collate(encoder, dataset.__getitems__([(0, row) for row in (1, 3, 17, 9)]))
    assert batch["image"].shape == (6, 3, 32, 32)  # of 8 looks, rows 1 and 17 have the same
    rows = batch["image_rows"]
    assert rows.shape == (4, 2)
    assert torch.equal(rows[0], rows[2])
    for index, row in enumerate((1, 3, 17, 9)):
        for place, pixels in enumerate(dataset[0, row]["images"]):  # whatever else the batch holds
            assert torch.equal(batch["image"][rows[index, place]], torch.from_numpy(pixels))
    seen = [row for keys in EpochSampler(24, 6, 1, 0, groups=dataset.groups) for _, row in keys]
    assert sorted(seen) == list(range(24))
    places = {row: place for place, row in enumerate(seen)}
    assert all(abs(places[row] - places[row + 16]) == 1 for row in range(7))
    assert max(places[row] for row in (7, 8, 23)) - min(places[row] for row in (7, 8, 23)) == 2
    assert next(TrainLoader(dataset, encoder, train).batches(0))["image_rows"].shape == (6, 2)


def test_sharing_images_changes_no_sample_without_augmentation(world: Path, encoder: Encoder) -> None:
    config = tiny_config(augment="none")
    rows, plain = lists_of(world)["vqa_train"], config.tasks.vqa.train
    shared = dataclasses.replace(plain, share_images=True)
    keys = [(0, row) for row in (0, 5, 3)]
    sets = [QuestionDataset.of(rows, config.model, train) for train in (plain, shared)]
    alone, once = (each.collate(encoder, each.__getitems__(keys)) for each in sets)
    assert torch.equal(once["image"][once["image_rows"][:, 0]], alone["image"])
    assert all(torch.equal(once[name], alone[name]) for name in alone if name != "image")
