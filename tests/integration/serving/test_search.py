"""Filters, thresholds, pages, distinct answers, and queries by text and image of a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest

from albef import cli
from albef.index.index import Collection, ImageTextIndex
from albef.serving import requests
from albef.serving.client import Client, InvalidRequestError
from albef.serving.server import TritonServer
from albef.serving.service import Access, Service
from albef.serving.transport import infer_arguments
from tests.errors import refuses
from tests.filters import HOSTILE
from tests.served import copy_endpoints

TEXT = "red above blue"
SOURCES = ("wiki", "web", None)


@dataclass(frozen=True)
class Search:
    """Service whose images have metadata."""

    service: Service
    client: Client
    years: dict[str, int]
    images: Collection
    folder: Path

    def ask(self, **options) -> dict[str, float]:
        return {match.id: match.score for match in self.client.retrieve(**{"k": 40, **options})}


@pytest.fixture(scope="module")
def search(model, runtime, tmp_path_factory) -> Iterator[Search]:
    folder = tmp_path_factory.mktemp("search")
    repository = copy_endpoints(model.repository, folder / "repository", "retrieval")
    index = repository / "retrieval" / "1" / "index"
    server = TritonServer(repository, runtime=runtime)
    with Service(server, Access(http_port=0)) as service, Client(service.grpc_url) as client:
        assert client.retrieve(TEXT)  # metadata reach a running server
        images = ImageTextIndex(index).images
        years = {name: 2000 + 2 * n for n, name in enumerate(images.ids(images.rows))}
        lines = [json.dumps({"id": name, "year": year, "source": SOURCES[year % 3]}) for name, year in years.items()]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
        arguments = ["index", "add", "--repository", repository, "--metadata", folder / "metadata.jsonl"]
        assert cli.main(list(map(str, arguments))) == 0
        yield Search(service, client, years, ImageTextIndex(index).images, folder)


@pytest.mark.parametrize("rerank", [True, False])
def test_a_filter_leaves_the_order_of_the_rest(search, rerank):
    everything = search.ask(text=TEXT, rerank=rerank)
    assert everything.keys() == search.years.keys()
    for where, holds in (
        ("year >= 2012 AND source = 'wiki'", lambda year: year >= 2012 and year % 3 == 0),
        ("source IS NULL", lambda year: year % 3 == 2),
        ("year > 2100", lambda year: False),
    ):
        expected = {name: score for name, score in everything.items() if holds(search.years[name])}
        found = search.ask(text=TEXT, rerank=rerank, where=where)
        assert found == pytest.approx(expected, abs=1e-5)
        assert list(found) == list(expected)


@pytest.mark.parametrize("rerank", [True, False])
def test_nothing_that_matches_is_an_answer(search, rerank):
    everything = search.ask(text=TEXT, rerank=rerank)
    least = float(np.median(list(everything.values())))
    assert all(0 <= score <= 1 for score in everything.values()) or not rerank
    assert search.ask(text=TEXT, rerank=rerank, min_score=least) == {
        name: pytest.approx(score, abs=1e-6) for name, score in everything.items() if score >= np.float32(least)
    }
    assert search.ask(text=TEXT, rerank=rerank, min_score=1.0) == {}
    many = search.client.retrieve_many([TEXT, "green", "white"], k=9, rerank=rerank, min_score=least)
    for text, matches in zip([TEXT, "green", "white"], many, strict=True):
        assert [m.id for m in matches] == list(search.ask(text=text, rerank=rerank, min_score=least, k=9))


def test_an_empty_answer_over_both_protocols(search):
    request = requests.build("retrieval", texts=[TEXT], where="0")
    answer = search.client.triton.infer(**infer_arguments(request), client_timeout=30)
    assert answer.as_numpy("ids").shape == answer.as_numpy("scores").shape == (1, 0)
    assert post(search, texts=[TEXT], where="0") == {"answers": [[]]}


def test_the_http_side_has_the_same_options(search):
    options = {"where": "year < 2020", "min_score": 0, "offset": 1, "distinct": 1, "k": 3, "rerank": True}
    (answer,) = post(search, texts=[TEXT], **options)["answers"]
    assert {match["id"]: match["score"] for match in answer} == pytest.approx(search.ask(text=TEXT, **options))


def post(search: Search, **body) -> dict[str, list]:
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    with urlopen(Request(f"{search.service.http_url}/v1/retrieval", data, headers), timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("rerank", [True, False])
@pytest.mark.parametrize("k", [4, 6, 7])
def test_pages_hold_each_answer_once(search, rerank, k):
    pages = [search.ask(text=TEXT, rerank=rerank, k=k, offset=offset) for offset in range(0, 20, k)]
    names = [name for page in pages for name in page]
    assert sorted(names) == sorted(search.years)
    assert pages[0] == search.ask(text=TEXT, rerank=rerank, k=k)
    if not rerank:
        assert names == list(search.ask(text=TEXT, rerank=False))
    assert search.ask(text=TEXT, rerank=rerank, k=k, offset=1000) == {}


def test_near_duplicates_collapse(search):
    rows = dict(zip(search.images.ids(search.images.rows), search.images.rows.tolist(), strict=True))
    order = search.ask(text=TEXT, rerank=False)
    vectors = dict(zip(order, search.images.segments.features([rows[name] for name in order]), strict=True))
    similar = np.array(list(vectors.values())) @ np.array(list(vectors.values())).T
    threshold = float(np.quantile(similar[np.triu_indices(len(order), 1)], 0.9))
    expected: list[str] = []
    for name, vector in vectors.items():
        if all(vector @ vectors[other] < threshold for other in expected):
            expected.append(name)
    assert 4 < len(expected) < len(order)
    found = list(search.ask(text=TEXT, rerank=False, distinct=threshold, k=4))
    assert found == expected[:4]
    assert set(search.ask(text=TEXT, rerank=True, distinct=threshold, k=6)) == set(expected[:6])


def test_text_and_image_search_images_together(search, model):
    number = 3
    name = f"images/{number}.png"
    image = model.folder / name
    words = search.ask(text=TEXT, rerank=False)
    assert search.ask(text=TEXT, image=image, text_weight=1.0) == pytest.approx(words, abs=1e-5)
    alike = search.ask(text=TEXT, image=image, text_weight=0)
    assert alike[name] == pytest.approx(1, abs=1e-4)
    assert next(iter(alike)) == name or alike[next(iter(alike))] == pytest.approx(1, abs=1e-4)
    shared = set(words) & set(alike)
    for options, weight in (({}, 0.5), ({"text_weight": 0.2}, 0.2)):
        both = search.ask(text=TEXT, image=image, **options)
        ratios = [both[key] / (weight * words[key] + (1 - weight) * alike[key]) for key in shared & set(both)]
        assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-3)  # 1 / the norm of the mean
        assert ratios[0] >= 1
    reranked = search.ask(text=TEXT, image=image, rerank=True)
    alone = search.ask(text=TEXT, rerank=True)
    assert {key: reranked[key] for key in set(alone) & set(reranked)} == pytest.approx(
        {key: alone[key] for key in set(alone) & set(reranked)}, abs=1e-5
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_filters_are_refused(search, name):
    where, names = HOSTILE[name]
    names = [n for n in names if not str(n).startswith(("id (", "year ("))]
    with refuses(InvalidRequestError, "'where'", *names):
        search.client.retrieve(TEXT, where=where)


def test_an_unknown_column_is_answered_with_the_known_ones(search):
    with refuses(InvalidRequestError, "'where'", "yaer", "id (TEXT), year (INTEGER), source (TEXT)"):
        search.client.retrieve(TEXT, where="yaer > 2000")


def test_neighbors_of_hostile_filters_keep_their_answers(search):
    expected = search.ask(text=TEXT, where="year > 2010")

    def ask(number: int):
        if number % 2:
            return search.ask(text=TEXT, where="year > 2010")
        with refuses(InvalidRequestError, "'where'"):
            search.client.retrieve(TEXT, where=list(HOSTILE.values())[number % len(HOSTILE)][0])
        return expected

    with ThreadPoolExecutor(8) as pool:
        assert all(found == pytest.approx(expected) for found in pool.map(ask, range(48)))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"offset": -1}, ("'offset'", -1, 0, 1000)),
        ({"offset": 1001}, ("'offset'", 1001)),
        ({"min_score": 1.5}, ("'min_score'", 1.5)),
        ({"min_score": float("nan")}, ("'min_score'",)),
        ({"distinct": -0.1}, ("'distinct'",)),
        ({"distinct": 1.01}, ("'distinct'",)),
        ({"text_weight": 0.5}, ("'text_weight'", "image")),
        ({"offset": 2**40}, ("'offset'", 2**40)),
    ],
)
def test_options_out_of_range_are_refused(search, options, names):
    with refuses(InvalidRequestError, *names):
        search.client.retrieve(TEXT, **options)
    with refuses(InvalidRequestError, "'text_weight'"):
        search.client.retrieve(TEXT, image=requests.GRAY_PIXEL, text_weight=2)


def test_the_command_line_has_the_same_options(search, model, capsys):
    url = ["--url", search.service.grpc_url]
    command = ["ask", "retrieval", TEXT, *url, "-k", "3", "--where", "year < 2010", "--offset", "3", "--no-rerank"]
    assert cli.main([*command, "--min-score", "-1", "--distinct", "1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    expected = search.ask(text=TEXT, where="year < 2010", offset=3, k=3, rerank=False)
    assert [line[2] for line in lines] == list(expected)
    image = str(model.folder / "images" / "3.png")
    assert cli.main(["ask", "retrieval", TEXT, "--image", image, "--text-weight", "0", "-k", "1", *url]) == 0
    assert "1.0000" in capsys.readouterr().out
    assert cli.main([*command, "--where", "yaer < 2010"]) == 2
    assert "yaer" in capsys.readouterr().err
