"""Tests of mixed sources and of captions by turns."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.config import ConfigError, PretrainConfig, overlay
from albef.data.image_text import PairDataset
from albef.data.lists import Images, Lists, Rows
from albef.data.loader import EpochSampler, TrainLoader
from albef.data.mixing import Mixture, quotas
from albef.data.schema import read_list
from albef.data.tables import write_records
from albef.data.tokenizer import Encoder
from albef.training.state import fingerprint
from tests.errors import refuses
from tests.worlds import color_world, tiny_config

Keys = list[tuple[int, int]]

counts_of = st.lists(st.integers(1, 60), min_size=1, max_size=5)
temperatures = st.floats(1, 100)


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[np.ndarray, Mixture]:
    """Sources of rows in any order, and their mixture."""
    counts = draw(counts_of)
    sources = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    np.random.default_rng(draw(st.integers(0, 9))).shuffle(sources)
    return sources, Mixture(sources, draw(temperatures), seed=draw(st.integers(0, 9)))


def test_without_mixing_the_order_is_that_of_old_runs() -> None:
    groups = np.arange(11) // 3
    expected = {
        None: [[7, 0, 1, 4], [10, 9, 2, 6]],
        "groups": [[4, 3, 5, 7], [6, 8, 0, 1]],
    }
    for kind, batches in expected.items():
        sampler = EpochSampler(11, 4, seed=3, epoch=2, groups=groups if kind else None)
        assert list(sampler) == [[(2, row) for row in batch] for batch in batches]


@given(counts_of, temperatures)
def test_quotas_follow_the_temperature(counts: list[int], temperature: float) -> None:
    rows = np.array(counts)
    weights = rows ** (1 / temperature)
    found = quotas(rows, temperature)
    assert found.sum() == rows.sum()
    assert np.abs(found - weights / weights.sum() * rows.sum()).max() < 1
    assert np.array_equal(quotas(rows, 1), rows)


def test_quotas_of_the_largest_temperature_are_equal() -> None:
    assert quotas(np.array([1, 9, 80]), 1e6).tolist() == [30, 30, 30]
    assert quotas(np.array([100, 10_000]), 2).tolist() == [918, 9182]  # 10 to 100


@given(mixtures(), st.integers(1, 6))
def test_rows_of_a_source_take_turns(mixed: tuple[np.ndarray, Mixture], epochs: int) -> None:
    sources, mixture = mixed
    total: Counter[int] = Counter()
    for epoch in range(epochs):
        rows, draws = mixture.draw(epoch, np.arange(len(sources)))
        assert np.array_equal(np.bincount(sources[rows], minlength=len(mixture.counts)), mixture.quotas)
        by_row: dict[int, list[int]] = {}
        for row, number in zip(rows.tolist(), draws.tolist(), strict=True):
            by_row.setdefault(row, []).append(number)
        for row, numbers in by_row.items():  # draws are numbered from 0 over all epochs
            assert sorted(numbers) == list(range(total[row], total[row] + len(numbers)))
        now = Counter(rows.tolist())
        total.update(now)
        for source, count in enumerate(mixture.counts):
            own = np.flatnonzero(sources == source).tolist()
            for drawn in (now, total):
                assert max(drawn[row] for row in own) - min(drawn[row] for row in own) <= 1
            whole = mixture.quotas[source] // count
            assert all(now[row] in (whole, whole + 1) for row in own)


def test_another_epoch_and_seed_draw_other_rows() -> None:
    sources = np.repeat(np.arange(2, dtype=np.int32), [300, 3])

    def drawn(seed: int, epoch: int) -> set[int]:
        rows = set(Mixture(sources, 3.0, seed).draw(epoch, np.arange(303))[0].tolist())
        return {row for row in rows if row < 300}

    assert drawn(0, 0) == drawn(0, 0)
    assert drawn(0, 0) != drawn(0, 1)
    assert drawn(0, 0) != drawn(1, 0)
    # In order, the first rows of a list would always be drawn first.
    assert max(drawn(0, 0)) > 250


@given(mixtures(), st.integers(0, 5), st.integers(1, 4), st.integers(1, 2), st.booleans(), st.data())
def test_batches_do_not_depend_on_ranks_or_start(
    mixed: tuple[np.ndarray, Mixture], epoch: int, ranks: int, parts: int, grouped: bool, data: st.DataObject
) -> None:
    sources, mixture = mixed
    size = len(sources)
    batch_size = data.draw(st.integers(1, size))
    start = data.draw(st.integers(0, size // batch_size))
    groups = np.arange(size) // 3 if grouped else None

    def batches(start: int = 0, rank: int = 0, ranks: int = 1, parts: int = 1) -> list[Keys]:
        shard = (rank, ranks)
        return list(EpochSampler(size, batch_size, 4, epoch, start, groups, shard, parts, mixture))

    whole = batches()
    assert [len(batch) for batch in whole] == [batch_size] * (size // batch_size)
    assert batches(start) == whole[start:]
    shares = [batches(start, rank, ranks, parts) for rank in range(ranks)]
    for number, batch in enumerate(whole[start:]):
        own = [part for share in shares for part in share[number * parts : (number + 1) * parts]]
        assert list(itertools.chain(*own)) == batch
    keys = [key for batch in whole for key in batch]
    assert len(set(keys)) == len(keys)  # repetitions of a row differ
    if groups is not None:
        changes = sum(groups[left] != groups[right] for (_, left), (_, right) in itertools.pairwise(keys))
        assert changes == len({groups[row] for _, row in keys}) - 1


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of two sources, of 28 and 4 rows."""
    folder = color_world(tmp_path_factory.mktemp("mixing") / "world", images=32)
    records = read_list(folder / "lists" / "pretrain.json")
    sources = ["large.json"] * 28 + ["small.json"] * 4
    (folder / "tables").mkdir()
    write_records(
        folder / "tables" / "pretrain.arrow",
        ((record, (), source) for record, source in zip(records, sources, strict=True)),
    )
    return folder


def dataset_of(folder: Path, world: Path, **changes: object) -> PairDataset:
    config = tiny_config(augment="light")
    train = dataclasses.replace(config.pretrain, **changes)
    return PairDataset.of(Lists(folder, world)["pretrain"], config.model, train)


def test_a_loader_mixes_the_sources_of_a_table(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    dataset = dataset_of(world / "tables", world, mixing_temperature=1e6)
    with caplog.at_level(logging.INFO):
        loader = TrainLoader(dataset, encoder, dataset.train)
    assert "draws 16 rows from the 4 of small.json" in caplog.text
    keys = [key for batch in loader.sampler for key in batch]
    assert Counter(row >= 28 for _, row in keys) == {True: 16, False: 16}
    repeated = [dataset[number, 30] for number, row in sorted(keys) if row == 30]
    assert len(repeated) == 4
    for left, right in itertools.combinations(repeated, 2):  # other augmentation
        assert not np.array_equal(left["images"][0], right["images"][0])
    whole, tail = list(loader.batches(1)), list(loader.batches(1, start=2))
    for left, right in zip(whole[2:], tail, strict=True):
        assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_list_of_one_source_is_not_mixed(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    orders = []
    for temperature in (None, 5.0):
        dataset = dataset_of(world / "lists", world, mixing_temperature=temperature)
        orders.append(list(TrainLoader(dataset, encoder, dataset.train).sampler))
        assert ("mixing_temperature" in caplog.text) is (temperature is not None)
    assert orders[0] == orders[1]


@settings(max_examples=20)
@given(st.integers(1, 6), st.integers(0, 50), st.integers(0, 50))
def test_captions_take_turns(world: Path, count: int, row: int, epoch: int) -> None:
    names = [f"caption {number}" for number in range(count)]
    rows = Rows([{"image": "images/0.png", "caption": names}] * 51, Images(world))
    train = dataclasses.replace(tiny_config().pretrain, captions="cycle")
    dataset = PairDataset(rows, 32, train)
    seen = [dataset[epoch + number, row]["text"] for number in range(2 * count)]
    assert sorted(seen[:count]) == names
    assert seen[count:] == seen[:count]


def test_rows_have_turns_of_their_own_and_the_default_is_random(world: Path) -> None:
    records = [{"image": "images/0.png", "caption": ["a", "b", "c"]}] * 40
    for captions, different in (("cycle", 3), ("random", None)):
        train = dataclasses.replace(tiny_config().pretrain, captions=captions)
        dataset = PairDataset(Rows([*records, {"image": "images/0.png", "caption": "a"}], Images(world)), 32, train)
        seen = [tuple(dataset[epoch, row]["text"] for epoch in range(3)) for row in range(40)]
        assert len(set(seen)) > 3
        assert all(len(set(texts)) == 3 for texts in seen) is (different == 3)
        assert dataset[0, 40]["text"] == "a"
    assert tiny_config().pretrain.captions == "random"


def test_wrong_values_are_named_and_runs_have_folders_of_their_own() -> None:
    config = tiny_config()
    with refuses(ConfigError, "params.pretrain.mixing_temperature", 0.5, 1):
        overlay(config, {"pretrain": {"mixing_temperature": 0.5}})
    with refuses(ConfigError, "params.pretrain.captions", "random", "cycle"):
        overlay(config, {"pretrain": {"captions": "first"}})
    changes: list[dict[str, object]] = [{}, {"mixing_temperature": 2}, {"captions": "cycle"}]
    sections = [overlay(config, {"pretrain": change}) for change in changes]
    assert isinstance(sections[1].pretrain, PretrainConfig)
    assert len({fingerprint("pretrain", section, "data") for section in sections}) == 3
