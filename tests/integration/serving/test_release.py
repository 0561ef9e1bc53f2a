"""Release and rollback of versions in a running server."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from albef import cli
from albef.export import repository
from albef.serving import release
from albef.serving.client import Client, ServerUnavailableError
from albef.serving.probes import Probe, ProbeError
from albef.serving.protocol import HASH_KEY
from albef.serving.release import ReleaseError
from albef.serving.server import TritonServer
from tests.errors import refuses

TASKS = ("retrieval", "entailment")


def written(model, exported: Path, out: Path) -> Path:
    repository.run(model.config, exported, model.folder / "lists", model.folder, model.folder / "tokenizer", out)
    return out


@pytest.fixture(scope="module")
def other(model, tmp_path_factory) -> Path:
    """Model repository with other weights, put into the graphs because exporting takes long."""
    folder = tmp_path_factory.mktemp("other")
    for task in TASKS:
        shutil.copytree(model.exported / task, folder / "export" / task)
        for path in (folder / "export" / task).glob("*.onnx"):
            graph = onnx.load(path)
            for weights in graph.graph.initializer:
                values = numpy_helper.to_array(weights)
                if values.ndim > 1 and values.dtype == np.float32:
                    weights.CopyFrom(numpy_helper.from_array(values[::-1].copy(), weights.name))
            for entry in graph.metadata_props:
                if entry.key == HASH_KEY:
                    entry.value = hashlib.sha256(entry.value.encode()).hexdigest()
            onnx.save(graph, path)
    return written(model, folder / "export", folder / "repository")


def first_version(model, folder: Path) -> Path:
    for task in TASKS:
        shutil.copytree(model.exported / task, folder / "export" / task)
    return written(model, folder / "export", folder / "live")


@pytest.fixture
def live(model, tmp_path) -> Path:
    return first_version(model, tmp_path)


@pytest.fixture
def explicit(live, runtime):
    with TritonServer(live, runtime=runtime) as running:
        yield running


@pytest.fixture(scope="module")
def settled(model, runtime, tmp_path_factory):
    """Repository and server that stay at version 1."""
    live = first_version(model, tmp_path_factory.mktemp("settled"))
    with TritonServer(live, runtime=runtime) as running:
        yield live, running


def image_path(model) -> Path:
    return model.folder / "images" / "5.png"


class Crowd:
    """Clients that send a request many times a second without retries and record every answer."""

    def __init__(self, url: str, image: Path, threads: int = 4) -> None:
        self.url, self.image, self.answers, self.errors = url, image.read_bytes(), [], []
        self.counts = [0] * threads
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(number,)) for number in range(threads)]

    def run(self, number: int) -> None:
        with Client(self.url, retries=0) as client:
            while not self.stopping.wait(0.05):  # leaves the release a share of the cores
                try:
                    if number % 2:
                        answer = ("entailment", round(client.entail(self.image, "red above blue")["neutral"], 4))
                    else:
                        best = client.retrieve("red above blue", k=2)
                        answer = ("retrieval", *(round(match.score, 3) for match in best))
                except Exception as error:
                    self.errors.append(repr(error))
                else:
                    self.answers.append(answer)
                    self.counts[number] += 1

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def wait(self, count: int) -> None:
        """Wait until every client has ``count`` more answers."""
        targets, deadline = [before + count for before in self.counts], time.monotonic() + 120
        while any(now < target for now, target in zip(self.counts, targets, strict=True)):
            assert time.monotonic() < deadline, self.errors[-3:]
            time.sleep(0.02)


def states(server) -> dict[tuple[str, str], str]:
    with Client(server.grpc_url) as client:
        found = client.triton.get_model_repository_index().models
        return {(model.name, model.version): model.state for model in found if model.version}


def kinds(answers) -> set:
    return set(answers)


def test_no_request_is_lost_while_a_version_takes_over_and_is_taken_back(explicit, live, model, other):
    with Crowd(explicit.grpc_url, image_path(model)) as crowd:
        crowd.wait(10)
        old = kinds(crowd.answers)
        assert len(old) == 2
        assert release.release(live, other, explicit.grpc_url) == 2
        crowd.wait(2)  # what was asked before
        mark = len(crowd.answers)
        crowd.wait(10)
        new = kinds(crowd.answers[mark:])
        assert len(new) == 2
        assert not new & old
        assert kinds(crowd.answers) == new | old  # each answer is one version's, whole
        loaded = states(explicit)
        for name in ("retrieval", "retrieval_fusion", "entailment", "entailment_vision"):
            assert loaded[name, "1"] == loaded[name, "2"] == "READY"
        with Client(explicit.grpc_url, version=1) as pinned:
            assert round(pinned.entail(image_path(model), "red above blue")["neutral"], 4) in {v for _, v, *_ in old}

        assert release.rollback(live, explicit.grpc_url) == 1
        crowd.wait(2)
        mark = len(crowd.answers)
        crowd.wait(10)
        assert kinds(crowd.answers[mark:]) == old
        with Client(explicit.grpc_url, version=2, retries=0) as pinned, pytest.raises(ServerUnavailableError):
            pinned.entail(image_path(model), "red")
        assert release.release(live, other, explicit.grpc_url) == 3  # 2 is not used again
    assert crowd.errors == []
    assert release.versions(live / "retrieval") == [1, 3]
    assert not list(live.glob("*_candidate"))
    with refuses(ReleaseError, live, "version 3"):
        release.release(live, other, explicit.grpc_url, version=3)


def damaged(other: Path, folder: Path, damage: str) -> Path:
    shutil.copytree(other, folder)
    if damage == "graph":
        graph = folder / "entailment_classify" / "1" / "model.onnx"
        graph.write_bytes(graph.read_bytes()[:1000])
    elif damage == "hash":
        settings = folder / "entailment" / "1" / "settings.json"
        settings.write_text(settings.read_text().replace('"model_hash": "', '"model_hash": "0000'))
    elif damage == "gallery":
        shutil.rmtree(folder / "retrieval" / "1" / "index")
    return folder


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        ("graph", "entailment_classify"),
        ("hash", "entailment_candidate"),
        ("gallery", "retrieval_candidate"),
        ("probe", "'no such image'"),
    ],
)
def test_a_version_that_fails_never_answers(settled, model, other, tmp_path, damage, name):
    live, server = settled
    before = sorted(path.relative_to(live) for path in live.rglob("*"))
    probes = [Probe("retrieval", text="red", expect="no such image")] if damage == "probe" else []
    with Crowd(server.grpc_url, image_path(model), threads=2) as crowd:
        crowd.wait(2)
        with refuses(ReleaseError, name):
            release.release(live, damaged(other, tmp_path / "new", damage), server.grpc_url, probes)
        crowd.wait(2)
    assert crowd.errors == []
    assert len(kinds(crowd.answers)) == 2
    assert sorted(path.relative_to(live) for path in live.rglob("*")) == before
    assert {version for (_, version), state in states(server).items() if state == "READY"} == {"1"}
    with Client(server.grpc_url) as client:
        assert client.ready()
    with refuses(ReleaseError, live, 1):
        release.rollback(live, server.grpc_url)


def test_what_a_killed_release_left_is_in_nobodys_way(explicit, live, other):
    shutil.copytree(live / "entailment", live / "entailment_candidate")
    (live / "retrieval" / "copying-2").mkdir()
    assert release.release(live, other, explicit.grpc_url) == 2
    assert not list(live.glob("*_candidate")) + list(live.glob("*/copying-*"))


def test_other_tensors_need_another_server(live, other, tmp_path):
    new = damaged(other, tmp_path / "new", "none")
    config = new / "entailment_vision" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: 32", "dims: 48", 1))
    with refuses(ReleaseError, "entailment_vision"):
        release.release(live, new, "127.0.0.1:1")


def test_commands(settled, model, other, tmp_path, capsys):
    live, server = settled
    shutil.copyfile(image_path(model), tmp_path / "image.png")
    with Client(server.grpc_url) as client:
        caption = client.retrieve(image=image_path(model), k=40, rerank=False)[0].id
    rows = [
        {"endpoint": "retrieval", "image": "image.png", "expect": caption, "k": 40},
        {"endpoint": "entailment", "image": "image.png", "text": "red"},
        {"endpoint": "vqa", "image": "image.png", "text": "not served here"},
    ]
    (tmp_path / "probes.json").write_text(json.dumps(rows))
    common = ["--repository", str(live), "--url", server.grpc_url]
    arguments = ["release", *common, "--new", str(other), "--probes", str(tmp_path / "probes.json")]
    assert cli.main([*arguments, "--model-version", "20"]) == 0
    assert capsys.readouterr().out == "version 20 answers\n"
    assert cli.main(["rollback", *common]) == 0
    assert capsys.readouterr().out == "version 1 answers\n"


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ("{", []),
        ("{}", []),
        ('[{"endpoint": "vqa"}, {"endpoint": "what"}]', ["entry 1", "endpoint", "'what'"]),
        ('[{"endpoint": "vqa", "question": "a"}]', ["entry 0", "'question'"]),
        ('[{"endpoint": "vqa", "text": 3}]', ["entry 0", "text", 3]),
        ('[{"endpoint": "grounding", "expect": "a"}]', ["entry 0", "expect", "grounding"]),
    ],
)
def test_wrong_probes_are_explained(tmp_path, rows, names):
    (tmp_path / "probes.json").write_text(rows)
    with refuses(ReleaseError, "probes.json", *names):
        release.read_probes(tmp_path / "probes.json")


def test_probes_are_compared_with_every_kind_of_answer(client, model):
    image = image_path(model)
    label = max(client.entail(image, "red").items(), key=lambda item: item[1])[0]
    answer = client.answer(image, "what is it", k=1)[0].text
    for probe in (
        Probe("entailment", "red", image, label),
        Probe("vqa", "what is it", image, answer),
        Probe("grounding", "red", image),
    ):
        probe.ask(client)
        if probe.expect:
            with refuses(ProbeError, "'other'"):
                dataclasses.replace(probe, expect="other").ask(client)
