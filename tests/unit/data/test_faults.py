"""Tests of bad rows in training: their replacements, their count and the limit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from albef.data.datasets import TrainSet
from albef.data.faults import LIST, BadRowsError, PartFaults, ReplacingSet, SkippedRows
from albef.data.image_text import PairDataset
from albef.data.lists import Images, Rows
from albef.data.loader import TrainLoader
from albef.data.tokenizer import Encoder
from albef.tasks.classification_data import ClassificationDataset
from tests.errors import refuses
from tests.worlds import color_world, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_world(tmp_path_factory.mktemp("faults") / "world", images=32)


@pytest.fixture(scope="module")
def encoder(world: Path) -> Encoder:
    return Encoder.from_file(world / "tokenizer" / "tokenizer.json")


def _pairs(world: Path, bad: set[int], **train: Any) -> PairDataset:
    """Pairs of which some lack their image."""
    records = json.loads((world / "lists" / "pretrain.json").read_text())
    records = [{**record, "image": "none.png"} if row in bad else record for row, record in enumerate(records)]
    return PairDataset(Rows(records, Images(world), kind="pretrain"), 32, tiny_config(**train).pretrain, 0.5)


def _equal(left: Any, right: Any) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[key], right[key]) for key in left)


@given(st.sets(st.integers(0, 31), max_size=12), st.lists(st.integers(0, 31), min_size=1, max_size=7, unique=True))
def test_bad_rows_are_replaced_by_the_next_good_ones(
    world: Path, encoder: Encoder, bad: set[int], rows: list[int]
) -> None:
    dataset = _pairs(world, bad)
    samples, faults = ReplacingSet(dataset, encoder).__getitems__([(3, row) for row in rows])
    for row, sample in zip(rows, samples, strict=True):
        further = [*range(9), 16, *range(9, 32)]
        good = next(other for offset in further if (other := (row + offset) % 32) not in bad)
        assert _equal(sample, dataset[3, good])
    assert faults.skipped == len(bad.intersection(rows))
    assert bad.intersection(rows) <= set(faults.reasons) <= bad
    assert not faults.lost
    assert all("none.png" in reason for reason in faults.reasons.values())


def test_rows_of_a_missing_folder_are_replaced_by_rows_beyond_it(world: Path, encoder: Encoder) -> None:
    dataset = _pairs(world, set(range(2, 18)))
    (sample,), faults = ReplacingSet(dataset, encoder).__getitems__([(0, 2)])
    assert _equal(sample, dataset[0, 18])
    assert sorted(faults.reasons) == [2, *range(3, 11)]


def _shared(world: Path, bad: set[str]) -> ClassificationDataset:
    """Three sentences about each image."""
    claims = json.loads((world / "lists" / "ve_train.json").read_text())
    records = [
        {**claim, "image": "none.png" if claim["image"] in bad else claim["image"], "sentence": f"{word} it is"}
        for claim in claims
        for word in ("surely", "maybe", "hardly")
    ]
    train = tiny_config(augment="light").tasks.entailment.train
    return ClassificationDataset(
        Rows(records, Images(world), kind="ve"), 32, type(train)(**{**vars(train), "share_images": True})
    )


def test_rows_that_share_a_bad_image_are_replaced_by_those_of_another(world: Path, encoder: Encoder) -> None:
    dataset = _shared(world, {"images/1.png"})
    replacing = ReplacingSet(dataset, encoder)
    loaded = replacing.__getitems__([(0, row) for row in (2, 3, 4, 5)])
    samples, faults = loaded
    assert [sample["text"] for sample in samples] == ["hardly it is", "surely it is", "maybe it is", "hardly it is"]
    for row, sample in zip((2, 6, 7, 8), samples, strict=True):
        assert np.array_equal(sample["images"][0], dataset[0, row]["images"][0])
    assert faults.skipped == 3
    batch = replacing.collate(loaded)
    assert batch["image"].shape[0] == 2
    assert batch["image_rows"].tolist() == [[0], [1], [1], [1]]


def test_a_malformed_record_is_replaced_and_its_group_is_not(world: Path, encoder: Encoder) -> None:
    plain, shared = _pairs(world, set()), _shared(world, set())
    for dataset, malformed in (
        (plain, {"image": "images/4.png", "caption": None}),
        (plain, {"image": "images/4.png", "caption": []}),
        (plain, {"image": None, "caption": "a flag"}),
        (plain, {"image": "images/4.png"}),
        (plain, None),
        (shared, {**shared.rows[4], "label": "perhaps"}),
        (shared, {**shared.rows[4], "sentence": 7}),
    ):
        rows = dataset.rows
        records = [malformed if row == 4 else record for row, record in enumerate(rows.records)]
        dataset.rows = Rows(records, rows.store, kind=rows.kind)
        samples, faults = ReplacingSet(dataset, encoder).__getitems__([(0, 3), (0, 4), (0, 5)])
        assert (faults.skipped, list(faults.reasons)) == (1, [4])
        assert "row 4" in faults.reasons[4]
        assert _equal(samples[1], dataset[0, 5 if dataset is plain else 7])
        assert len(samples) == 3
        dataset.rows = rows


def test_a_batch_without_a_good_row_is_given_up(world: Path, encoder: Encoder) -> None:
    dataset = _pairs(world, set(range(32)))
    replacing = ReplacingSet(dataset, encoder)
    samples, faults = replacing.__getitems__([(0, row) for row in range(8)])
    assert (samples, faults.lost) == ([], "all 8 rows of a batch")
    assert len(faults.reasons) == 8  # none but these was tried
    samples, faults = replacing.__getitems__([(0, 5), (0, 6)])  # few may be bad by chance
    assert faults.lost == "row 5 and all rows tried in its place"
    assert replacing.collate((samples, faults)) == {"faults": faults}


@pytest.mark.parametrize("workers", [0, 2])
def test_faults_travel_with_their_batch(world: Path, encoder: Encoder, workers: int) -> None:
    bad = {3, 4, 20}
    dataset = _pairs(world, bad, batch_size=8, num_workers=workers)
    batches = list(TrainLoader(dataset, encoder, dataset.train).batches(1))
    faults = [batch["faults"] for batch in batches if "faults" in batch]
    assert sum(part.skipped for part in faults) == 3
    assert set().union(*(part.reasons for part in faults)) == bad
    again = list(TrainLoader(dataset, encoder, tiny_config(batch_size=8).pretrain).batches(1))
    for left, right in zip(batches, again, strict=True):
        assert all(torch.equal(v, right[k]) if isinstance(v, torch.Tensor) else v == right[k] for k, v in left.items())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loading_process_that_finds_nothing_good_ends_with_a_sentence(
    world: Path, encoder: Encoder, tmp_path: Path, workers: int
) -> None:
    dataset = _pairs(world, set(range(32)), batch_size=8, num_workers=workers)
    batch = next(TrainLoader(dataset, encoder, dataset.train).batches(0))
    with refuses(BadRowsError, "pretrain", "all 8 rows", "none.png", tmp_path / LIST, "max_bad_share") as caught:
        SkippedRows("pretrain", dataset, tmp_path).add([batch])
    assert "\n" not in str(caught.value)
    assert len((tmp_path / LIST).read_text().splitlines()) == 8


def _counted(dataset: TrainSet, folder: Path, skipped: int) -> SkippedRows:
    rows = SkippedRows("pretrain", dataset, folder)
    rows.add([{"faults": PartFaults(skipped, {7: "7.png: broken"})}])
    rows.gather()
    return rows


@pytest.mark.parametrize(
    ("limit", "skipped", "step", "ends"),
    [
        (0.01, 1, 1, False),  # one of the first eight
        (0.01, 8, 2, False),
        (0.01, 9, 2, True),
        (0.01, 1, 4, True),  # one of 32, at the end of the epoch
        (0.04, 1, 4, False),
        (0.0, 1, 1, True),  # none is allowed
        (0.5, 17, 4, True),
    ],
)
def test_the_share_is_judged_when_it_is_no_chance(
    world: Path, tmp_path: Path, limit: float, skipped: int, step: int, ends: bool
) -> None:
    rows = _counted(_pairs(world, set(), max_bad_share=limit), tmp_path, skipped)
    if not ends:
        rows.check(step)
        return
    share, file = f"{skipped} of {8 * step} rows", tmp_path / LIST
    with refuses(BadRowsError, "pretrain", share, f"max_bad_share ({limit:g})", "7.png: broken", file):
        rows.check(step)
    assert json.loads(file.read_text()) == {"row": 7, "images": ["images/7.png"], "reason": "7.png: broken"}


def test_epochs_are_judged_one_by_one(world: Path, tmp_path: Path) -> None:
    """A folder that goes missing late is noticed as soon as one that goes missing early."""
    rows = _counted(_pairs(world, set(), max_bad_share=0.1), tmp_path, 3)
    rows.check(4)
    rows.begin_epoch()
    rows.add([{"faults": PartFaults(4, {})}])
    rows.gather()
    with refuses(BadRowsError, "4 of 32 rows"):
        rows.check(8)


def test_the_state_holds_count_and_list(world: Path, tmp_path: Path) -> None:
    dataset = _pairs(world, set())
    rows = _counted(dataset, tmp_path, 2)
    rows.begin_epoch()
    rows.write()
    content = (tmp_path / LIST).read_bytes()
    again = SkippedRows("pretrain", dataset, tmp_path)
    again.clear()
    assert not (tmp_path / LIST).exists()
    again.load_state(rows.state())
    again.write()
    assert (again.total, again.before) == (2, 2)
    assert (tmp_path / LIST).read_bytes() == content


def test_a_truncated_file_is_replaced(world: Path, tmp_path: Path, encoder: Encoder) -> None:
    folder = tmp_path / "world"
    shutil.copytree(world / "images", folder / "images")
    path = folder / "images" / "4.png"
    path.write_bytes(path.read_bytes()[:60])
    dataset = _pairs(world, set())
    dataset.rows = Rows(dataset.rows.records, Images(folder))
    (sample,), faults = ReplacingSet(dataset, encoder).__getitems__([(0, 4)])
    assert _equal(sample, dataset[0, 5])
    assert "4.png" in faults.reasons[4]
