"""Tests of the order of a stream, and of its batches."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.data import shards, tokenizer
from albef.data.image_text import number_of
from albef.data.lists import Images
from albef.data.shards import ShardError, place_of
from albef.data.stream import Position, Reader, StreamSpec, spec_of
from albef.data.stream_loader import StreamLoader, StreamSet
from albef.data.stream_mixing import MixedReader
from albef.data.tokenizer import Encoder
from albef.io import write_file
from tests.errors import refuses
from tests.shards import cut_within, pairs, write_all, write_tar
from tests.worlds import tiny_config

SHARDS, ROWS = 7, 6


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> StreamSpec:
    paths = write_all(tmp_path_factory.mktemp("shards"), SHARDS, ROWS)
    return StreamSpec(paths, rows=32, open_shards=3, window=4, image=None, caption=None, held_out=0.0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    words = tokenizer.train([text or "" for shard in range(SHARDS) for _, _, text in pairs(shard, ROWS)], 128)
    words.save(str(path := tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"))
    return Encoder.from_file(path)


def keys(reader: Reader, count: int) -> list[tuple[int, int]]:
    return [(shard, sample.number) for shard, sample in islice(reader, count)]


@settings(max_examples=25)
@given(
    processes=st.integers(1, 3), opened=st.integers(1, 4), window=st.integers(1, 9), stops=st.lists(st.integers(1, 40))
)
def test_resuming_anywhere_changes_nothing(
    spec: StreamSpec, processes: int, opened: int, window: int, stops: list[int]
) -> None:
    spec = replace(spec, open_shards=opened, window=window)
    for process in range(processes):
        whole = keys(Reader(spec, process, processes, 5, Position()), sum(stops) + 30)
        position, found = Position(), []
        for count in [*stops, 30]:
            reader = Reader(spec, process, processes, 5, position)
            found += keys(reader, count)
            position = reader.position
        assert found == whole


def test_each_turn_has_every_sample_once(spec: StreamSpec) -> None:
    total = sum(ROWS + shard % 3 for shard in range(SHARDS))
    both = [keys(Reader(spec, process, 2, 5, Position()), 3 * total) for process in range(2)]
    shares = [{shard for shard, _ in islice(found, 20)} for found in both]
    assert not shares[0] & shares[1]
    alone = keys(Reader(spec, 0, 1, 5, Position()), 2 * total)
    first, second = Counter(alone[:total]), Counter(alone[total:])
    assert set(first.values()) == set(second.values()) == {1}
    assert len(first) == total
    assert alone[:total] != alone[total:]
    assert keys(Reader(spec, 0, 1, 6, Position()), total) != alone[:total]
    assert len({shard for shard, _ in alone[:6]}) == 3  # shards are mixed


def test_a_lost_shard_is_left_out(spec: StreamSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_PAUSES", ())
    broken = tmp_path / "broken.tar"
    write_tar(broken, pairs(9, 8))
    cut_within(broken, 6)
    reader = Reader(replace(spec, shards=[str(broken), *spec.shards[1:]]), 0, 1, 5, Position())
    total = 2 + sum(ROWS + shard % 3 for shard in range(1, SHARDS))
    found = Counter(shard for shard, _ in keys(reader, total))
    assert found[0] == 2
    assert len(found) == SHARDS
    (failure,) = reader.failed
    assert "broken.tar" in failure
    nothing = Reader(replace(spec, shards=[str(tmp_path / "none.tar")]), 0, 1, 5, Position())
    assert keys(nothing, 1) == []


@pytest.fixture(scope="module")
def mixed(spec: StreamSpec) -> StreamSpec:
    """Three shards of 10 pairs by declaration, and four of 90."""
    sources = [
        {"pattern": "a", "first": 0, "shards": 3, "pairs": 10},
        {"pattern": "b", "first": 3, "shards": 4, "pairs": 90},
    ]
    return replace(spec, sources=sources)


@given(temperature=st.floats(1, 8), stops=st.lists(st.integers(1, 30), max_size=3))
@settings(max_examples=25)
def test_sources_have_their_shares(mixed: StreamSpec, temperature: float, stops: list[int]) -> None:
    whole = [shard for shard, _ in islice(MixedReader(mixed, 0, 2, 5, temperature), sum(stops) + 60)]
    weights = [10 ** (1 / temperature), 90 ** (1 / temperature)]
    for count in range(1, len(whole)):
        expected = count * weights[0] / sum(weights)
        assert abs(sum(shard < 3 for shard in whole[:count]) - expected) < 1.01
    state, found = None, list[int]()
    for count in [*stops, 60]:
        reader = MixedReader(mixed, 0, 2, 5, temperature, state)
        found += [shard for shard, _ in islice(reader, count)]
        state = json.loads(json.dumps(reader.state()))
    assert found == whole


def test_a_single_source_is_read_as_before(spec: StreamSpec) -> None:
    alone = keys(Reader(spec, 0, 1, 5, reached := Position()), 60)
    assert [(shard, sample.number) for shard, sample in islice(MixedReader(spec, 0, 1, 5), 60)] == alone
    before = Reader(spec, 0, 1, 5, reached)
    keys(before, 20)  # its position, as old checkpoints have it
    resumed = MixedReader(spec, 0, 1, 5, state=asdict(before.position))
    assert [(shard, sample.number) for shard, sample in islice(resumed, 40)] == alone[20:]


def test_a_lost_source_ends_the_stream(mixed: StreamSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_PAUSES", ())
    lost = replace(mixed, shards=[*(str(tmp_path / f"{number}.tar") for number in range(3)), *mixed.shards[3:]])
    reader = MixedReader(lost, 0, 1, 5)
    assert {shard for shard, _ in islice(reader, 50)} <= {3, 4, 5, 6}
    assert reader.take_failures()
    assert reader.take_failures() == []


def loader(spec: StreamSpec, encoder: Encoder, shard: tuple[int, int] = (0, 1), **train: object) -> StreamLoader:
    config = tiny_config(batch_size=8, augment="randaugment", **train)
    return StreamLoader(
        StreamSet(spec, Images(Path(spec.shards[0]).parent), config.model, config.pretrain, 0.5),
        encoder,
        config.pretrain,
        shard,
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_go_on_where_they_were(spec: StreamSpec, encoder: Encoder, workers: int) -> None:
    whole = loader(spec, encoder, num_workers=workers)
    batches = [part for epoch in range(3) for part in whole.batches(epoch)]
    assert len(batches) == 12
    assert all(part["image"].shape == (8, 3, 32, 32) for part in batches)
    killed = loader(spec, encoder, num_workers=workers)
    for part in islice(killed.batches(0), 3):
        killed.use(part)
    resumed = loader(spec, encoder, num_workers=workers)
    resumed.load_state(killed.state())
    rest = [*resumed.batches(0, start=3), *resumed.batches(1), *resumed.batches(2)]
    assert len(rest) == 9
    del killed, resumed, whole
    assert not multiprocessing.active_children()
    for left, right in zip(batches[3:], rest, strict=True):
        assert all(torch.equal(left[name], right[name]) for name in ("image", "input_ids", "image_id"))


def test_ranks_share_batches_and_shards(spec: StreamSpec, encoder: Encoder) -> None:
    loaders = [loader(spec, encoder, (rank, 3)) for rank in range(3)]
    assert [[len(part["image"]) for part in each.batches(0)] for each in loaders] == [[3] * 4, [3] * 4, [2] * 4]
    loaders = [loader(spec, encoder, (rank, 2), device_batch_size=2) for rank in range(2)]
    assert [[len(part["image"]) for part in each.batches(0)] for each in loaders] == [[2] * 8] * 2
    with refuses(ShardError, 7, 8, "num_workers"):
        loader(spec, encoder, (0, 4), num_workers=2)


def test_batches_have_all_sources(mixed: StreamSpec, encoder: Encoder) -> None:
    drawn = []
    for temperature in (None, 1e6):
        stream = loader(replace(mixed, rows=160), encoder)
        train = replace(tiny_config(batch_size=8).pretrain, mixing_temperature=temperature)
        *_, last = StreamLoader(stream.dataset, encoder, train).batches(0)
        drawn.append(last["position"][1]["drawn"])
    assert drawn == [[16, 144], [80, 80]]
    with refuses(ShardError, "a", 3, 4):
        loader(mixed, encoder, (0, 2), num_workers=2)


def test_held_out_pairs_are_never_seen(spec: StreamSpec, encoder: Encoder) -> None:
    names = {
        f"{path}, sample {sample.number} ({sample.key})": place_of(sample.key) < 0.3
        for path in spec.shards
        for sample in shards.read(path)
    }
    assert 5 < sum(names.values()) < 25
    stream = loader(replace(spec, held_out=0.3, rows=96), encoder)
    seen = {int(number) for part in stream.batches(0) for number in part["image_id"]}
    assert seen == {number_of(name) for name, held_out in names.items() if not held_out}


def test_bad_samples_are_replaced_and_named(spec: StreamSpec, encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    write_tar(
        path, [*pairs(0, 6), ("broken", b"no image", "a"), ("mute", pairs(0, 1)[0][1], " "), ("blind", None, "a")]
    )
    stream = loader(replace(spec, shards=[str(path)], rows=16), encoder)
    faults = [part["faults"] for part in stream.batches(0) if "faults" in part]
    reasons = [reason for each in faults for reason in each.reasons.values()]
    assert len({reason for reason in reasons if str(path) in reason}) == 3
    assert {name for name in ("broken", "mute", "blind") for reason in reasons if name in reason} == {
        "broken",
        "mute",
        "blind",
    }
    write_tar(path, [(f"{number}", b"no image", "a") for number in range(5)])
    (part,) = islice(loader(replace(spec, shards=[str(path)]), encoder).batches(0), 1)
    assert part["faults"].lost


def test_a_malformed_manifest_is_named(tmp_path: Path) -> None:
    assert spec_of(tmp_path) is None
    for text in ('{"stream": {"rows": 3}}', "[]", "{"):
        write_file(tmp_path / "manifest.json", text)
        with refuses(ValueError, "manifest.json", "stream"):
            spec_of(tmp_path)
