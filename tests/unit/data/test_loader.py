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
from tests.unit.data.test_images import encoded
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


def augmented(image: Image.Image, caption: str, size: int, kind: str, low: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return transforms.training_pixels(encoded(image), "image", caption, size, kind, low, rng)


@pytest.mark.parametrize(("caption", "mirrored"), [("a dog left of a cat", False), ("a dog and a cat", True)])
def test_captions_that_name_a_side_are_never_mirrored(caption: str, mirrored: bool) -> None:
    """An image with one dark half shows mirroring."""
    image = Image.new("RGB", (64, 64), "white")
    image.paste("black", (0, 0, 32, 64))
    turned = []
    for seed in range(200):
        # Cropping is all but off, so that only mirroring and RandAugment move anything.
        pixels = augmented(image, caption, 64, "randaugment", 0.999, seed).mean(0)
        turned.append(pixels[24:40, 8:24].mean() > pixels[24:40, 40:56].mean())
    # Half of the images, within four standard deviations.
    assert sum(turned) == 0 if not mirrored else abs(sum(turned) - 100) < 28


@pytest.mark.parametrize("kind", ["none", "light", "randaugment"])
def test_augmentation_is_reproducible_and_keeps_size(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    first, second, other = (augmented(Image.fromarray(pixels), "a cat", 32, kind, 0.5, seed) for seed in (5, 5, 6))
    assert np.array_equal(first, second)
    assert first.shape == (3, 32, 32)
    assert np.array_equal(first, other) == (kind == "none")


def test_light_augmentation_shifts_and_scales_brightness() -> None:
    y, x = np.mgrid[:64, :64]
    image = Image.fromarray(np.stack([60 + 2 * x, 60 + 2 * y, 0 * x + 100], axis=-1).astype(np.uint8))
    for seed in range(20):
        pixels = augmented(image, "a cat", 64, "light", 0.5, seed).astype(float)
        brightness = pixels[2, 0, 0] / 100
        assert 0.79 <= brightness <= 1.2
        inner = (slice(4, -4), slice(4, -4))
        shifts = [(pixels[0] / brightness - (60 + 2 * x))[inner], (pixels[1] / brightness - (60 + 2 * y))[inner]]
        for shift in shifts:
            assert abs(shift.mean() / 2 - round(shift.mean() / 2)) < 0.5
            assert abs(shift.mean()) < 2 * 4 + 1.5


def test_quirks_are_passed_on(world: Path) -> None:
    config = tiny_config(augment="randaugment")
    for quirks in (False, True):
        model = dataclasses.replace(config.model, official_quirks=quirks)
        dataset = PairDataset.of(Lists(world / "lists", world)["pretrain"], model, config.pretrain)
        rng = [np.random.default_rng([config.pretrain.seed, 0, 0]) for _ in range(2)]
        record = dataset.rows[0]
        text, path = dataset.sample(record, 0, rng[0])["text"], world / record["image"]
        dataset.sample(record, 0, rng[1])
        expected = transforms.training_pixels(
            path.read_bytes(), str(path), text, 32, "randaugment", 0.5, rng[1], official_quirks=quirks
        )
        assert dataset.official_quirks is quirks
        assert np.array_equal(dataset.pixels(dataset.rows.images(0, record)[0], text, rng[0]), expected)
