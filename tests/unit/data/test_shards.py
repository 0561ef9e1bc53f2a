"""Tests of reading shards: formats, damage, patterns."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from albef.data import shards
from albef.data.schema import SchemaError
from albef.data.shards import ShardError, ShardSample, expand, read
from tests.errors import refuses
from tests.shards import Pair, cut_within, pairs, write_all, write_parquet, write_tar


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_PAUSES", (0.0, 0.0))


CONTENT: list[Pair] = [*pairs(0, 3), ("a", None, "no image"), ("b", b"jpg", None), *pairs(1, 4)]


@pytest.mark.parametrize(("write", "ending"), [(write_tar, "tar"), (write_parquet, "parquet")])
def test_samples_come_back(tmp_path: Path, write: Any, ending: str) -> None:
    path = tmp_path / f"0.{ending}"
    write(path, CONTENT)
    found = list(read(str(path)))
    assert [sample.number for sample in found] == list(range(len(CONTENT)))
    assert [(sample.image, sample.captions) for sample in found] == [
        (image, [text or ""]) for _, image, text in CONTENT
    ]
    assert [sample.key.rpartition("/")[2] for sample in found] == [key for key, _, _ in CONTENT]
    for start in (1, 4, 8, 9, 20):
        assert list(read(str(path), start)) == found[start:]


def test_columns_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    write_tar(path, CONTENT[:2])
    assert next(read(str(path), caption="status")).captions == ["success"]
    assert next(read(str(path), image="png")).image is None
    write_parquet(tmp_path / "0.parquet", CONTENT[:2])
    assert next(read(str(tmp_path / "0.parquet"), caption="key")).captions == [CONTENT[0][0]]
    with refuses(SchemaError, "0.parquet", "title", "key, jpg, caption", "prepare.pairs.caption"):
        next(read(str(tmp_path / "0.parquet"), caption="title"))


@pytest.mark.parametrize("member", [0, 9, 12])
def test_a_truncated_shard_yields_what_it_has(tmp_path: Path, member: int) -> None:
    path = tmp_path / "0.tar"
    write_tar(path, pairs(0, 9))
    whole = list(read(str(path)))
    cut_within(path, member)
    found: list[ShardSample] = []
    with refuses(ShardError, "0.tar"):
        found += read_into(found, str(path))
    assert found == whole[: member // 3]


def read_into(found: list[ShardSample], shard: str) -> list[ShardSample]:
    for sample in read(shard):
        found.append(sample)
    return []


def test_a_read_that_fails_once_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "0.tar"
    write_tar(path, CONTENT)
    whole, opened = list(read(str(path))), shards._open
    failures = iter([3, 2, 0])

    def failing(*arguments: Any) -> Any:
        left = next(failures, None)
        for number, sample in enumerate(opened(*arguments)):
            if number == left:
                raise ConnectionResetError("network")
            yield sample

    monkeypatch.setattr(shards, "_open", failing)
    assert list(read(str(path))) == whole


def test_a_web_server_need_not_serve_ranges(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    path = tmp_path / "shards" / "0.tar"
    write_tar(path, CONTENT)
    handler = partial(SimpleHTTPRequestHandler, directory=str(path.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/0.tar"
        found, rest = list(read(url)), list(read(url, 4))
        with refuses(ShardError, "gone.tar"):
            list(read(url.replace("0.tar", "gone.tar")))
        server.shutdown()
        thread.join()
    assert found == list(read(str(path)))
    assert rest == found[4:]


def test_patterns(tmp_path: Path) -> None:
    paths = write_all(tmp_path / "shards", 4, 2)
    assert expand("shards/*.tar", tmp_path) == paths[::2]
    assert sorted(expand("shards", tmp_path)) == paths
    assert expand("shards/{00001,00003}.parquet", tmp_path) == paths[1::2]
    assert expand("shards/{00000..00002}.*", tmp_path) == paths[:3]
    assert expand("https://host/{08..10}.tar", tmp_path) == [f"https://host/{n}.tar" for n in ("08", "09", "10")]
    with refuses(ShardError, "shards/*.zip", "nothing"):
        expand("shards/*.zip", tmp_path)
    (tmp_path / "a.txt").touch()
    with refuses(ShardError, "a.txt", ".tar"):
        expand("a.txt", tmp_path)
    with refuses(ShardError, "nowhere"):
        expand("nowhere", tmp_path)
