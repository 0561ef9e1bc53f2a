"""Tests of training samples: reproducibility, augmentation and mirroring."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from albef.data import transforms
from albef.data.image_text import PairDataset, number_of
from albef.data.images import ImageError
from albef.data.lists import Images, Lists, Rows
from albef.data.loader import EpochSampler, TrainLoader
from albef.data.tokenizer import Encoder
from tests.errors import refuses
from tests.worlds import color_world, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_world(tmp_path_factory.mktemp("loaders") / "world", images=16)


def test_sampler_skips_what_a_resumed_run_has_seen() -> None:
    whole = list(EpochSampler(21, 4, seed=3, epoch=2))
    assert len(whole) == 5
    assert len({row for batch in whole for _, row in batch}) == 20
    assert list(EpochSampler(21, 4, seed=3, epoch=2, start=3)) == whole[3:]
    assert list(EpochSampler(21, 4, seed=3, epoch=1)) != whole
    with refuses(ValueError, "batch_size", 4, 3):
        EpochSampler(3, 4, seed=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_workers_or_start(world: Path, workers: int) -> None:
    train = tiny_config(num_workers=workers, batch_size=4, augment="light").pretrain
    dataset = PairDataset.of(Lists(world / "lists", world)["pretrain"], tiny_config().model, train)
    encoder = Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    plain = dataclasses.replace(train, num_workers=0)
    expected = list(TrainLoader(dataset, encoder, plain).batches(1))[2:]
    loader = TrainLoader(dataset, encoder, train)
    actual = list(loader.batches(1, start=2))
    assert len(actual) == 2
    for left, right in zip(expected, actual, strict=True):
        assert all(torch.equal(left[name], right[name]) for name in left)
    other = next(loader.batches(2, start=2))
    assert not torch.equal(other["image"], expected[0]["image"])
    again = list(loader.batches(1))[2:]
    assert all(torch.equal(left["image"], right["image"]) for left, right in zip(expected, again, strict=True))


def test_image_ids_are_shared_by_the_captions_of_an_image(world: Path) -> None:
    records = [
        {"image": "images/0.png", "caption": "a", "image_id": "coco_7"},
        {"image": "images/1.png", "caption": "b", "image_id": "coco_9"},
        {"image": "images/0.png", "caption": "c", "image_id": "coco_7"},
    ]
    dataset = PairDataset(Rows(records, Images(world)), 32, tiny_config().pretrain, 0.5)
    first, second, third = (dataset[0, row]["image_id"] for row in range(3))
    assert first == third != second


@given(st.lists(st.integers() | st.text(), unique_by=lambda value: (type(value), value), max_size=50))
def test_identifiers_have_numbers_of_their_own(identifiers: list[int | str]) -> None:
    numbers = [number_of(identifier) for identifier in identifiers]
    assert len(set(numbers)) == len(identifiers)
    assert torch.tensor(numbers, dtype=torch.int64).ge(0).all()


def test_a_missing_image_is_named(world: Path) -> None:
    dataset = PairDataset(
        Rows([{"image": "images/none.png", "caption": "a"}], Images(world)), 32, tiny_config().pretrain, 0.5
    )
    with refuses(ImageError, "none.png"):
        dataset[0, 0]


@pytest.mark.parametrize(("caption", "mirrored"), [("a dog left of a cat", False), ("a dog and a cat", True)])
def test_captions_that_name_a_side_are_never_mirrored(caption: str, mirrored: bool) -> None:
    """An image with one dark half shows mirroring."""
    image = Image.new("RGB", (64, 64), "white")
    image.paste("black", (0, 0, 32, 64))
    turned = set()
    for seed in range(60):
        # Cropping is all but off, so that only mirroring and RandAugment move anything.
        out = transforms.augment(image, caption, 64, "randaugment", 0.999, np.random.default_rng(seed))
        pixels = np.asarray(out.convert("L"), dtype=float)
        turned.add(bool(pixels[24:40, 8:24].mean() > pixels[24:40, 40:56].mean()))
    assert (True in turned) == mirrored


@pytest.mark.parametrize("kind", ["none", "light", "randaugment"])
def test_augmentation_is_reproducible_and_keeps_size(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    first, second = (transforms.augment(image, "a cat", 32, kind, 0.5, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(np.asarray(first), np.asarray(second))
    assert first.size == (image.size if kind == "none" else (32, 32))
