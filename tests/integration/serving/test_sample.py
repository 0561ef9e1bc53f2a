"""Request statistics sampled by a real server."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from albef.serving import requests
from albef.serving.client import Client
from albef.serving.sample import COLUMNS, FOLDER, FRACTION
from albef.serving.server import TritonServer
from tests import ROOT

KEYS = {"time", "endpoint", "version", *COLUMNS}


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def noted(folder: Path, endpoint: str) -> list[dict]:
    files = sorted(folder.glob(f"{endpoint}-*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def sampled(model, runtime, tmp_path_factory):
    """A server that samples every request, and its folder; entailment has two processes."""
    folder = tmp_path_factory.mktemp("sampled")
    shutil.copytree(model.repository, folder / "repository")
    config = folder / "repository/entailment/config.pbtxt"
    text = config.read_text()
    assert "count: 1\n" in text
    config.write_text(text.replace("count: 1\n", "count: 2\n"))
    with TritonServer(
        folder / "repository", runtime=runtime, sample=folder / "requests", sample_fraction=1.0
    ) as server:
        yield server, folder / "requests"


def test_requests_at_once_keep_their_figures_apart(sampled):
    server, folder = sampled
    asked = [(32 + n, 1 + n % 9) for n in range(40)]
    before = noted(folder, "entailment")

    def ask(width, words):
        client.entail(png(Image.new("RGB", (width, 33), "red")), " ".join(["red"] * words))

    with Client(server.grpc_url) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pair: ask(*pair), asked))
    after = noted(folder, "entailment")
    assert sorted((r["width"], r["words"]) for r in after[len(before) :]) == sorted(asked)
    assert len(list(folder.glob("entailment-*"))) == 2
    assert all(0 < r["confidence"] <= 1 for r in after)


def test_rows_have_their_own_figures_and_nothing_else(sampled, model):
    server, folder = sampled
    before = {
        name: len(noted(folder, name)) for name in ("vqa", "retrieval", "grounding", "compare", "classify", "embed")
    }
    content = png(Image.new("RGB", (50, 40), (51, 51, 51)))
    with Client(server.grpc_url) as client:
        client.answer_many(content, ["what is it", "is it red or 日本 then"])
        client.retrieve("red above green")
        client.retrieve(image=content)
        client.ground(content, "the red half")
        pair = requests.build(
            "compare", first=content, second=png(Image.new("RGB", (60, 40))), statements=["a", "a red"]
        )
        client.ask(pair)
        labels = client.classify(content, ["red", "green", "blue"])
        client.embed(["red above green"])
    one, two = noted(folder, "vqa")[before["vqa"] :]
    assert (one["words"], two["words"]) == (3, 6)
    assert one["unknown"] == 0 < two["unknown"]
    for record in (one, two):
        assert (record["width"], record["height"], record["bytes"]) == (50, 40, len(content))
        assert (record["brightness"], record["contrast"]) == (0.2, 0)
        assert 0 < record["confidence"] <= 1
    text, image = noted(folder, "retrieval")[before["retrieval"] :]
    assert (text["words"], text["width"], text["confidence"]) == (3, None, None)
    assert (image["words"], image["width"]) == (None, 50)
    (grounded,) = noted(folder, "grounding")[before["grounding"] :]
    assert grounded["confidence"] is None
    one, two = noted(folder, "compare")[before["compare"] :]  # of two images, the first
    assert [(record["width"], record["words"]) for record in (one, two)] == [(50, 1), (50, 2)]
    (classified,) = noted(folder, "classify")[before["classify"] :]
    assert (classified["width"], classified["words"]) == (50, None)
    assert classified["confidence"] == pytest.approx(max(labels.values()), abs=1e-4)
    (embedded,) = noted(folder, "embed")[before["embed"] :]
    assert (embedded["words"], embedded["width"], embedded["confidence"]) == (3, None, None)
    for name in before:
        for record in noted(folder, name):
            assert set(record) == KEYS
            assert not {key for key, value in record.items() if isinstance(value, str)} - {"time", "endpoint"}


FULL = """
import resource, signal, sys
from albef.serving.sample import Sampler
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
said = []
sampler = Sampler(lambda *a, **fields: said.append(fields["message"]), "vqa", 1, {"%s": sys.argv[1], "%s": "1"})
drafts = [sampler.draft()]
for _ in range(3):
    sampler.write(drafts[0], 1, {})
print(len(said), sampler.draft(), said[0])
"""


def test_a_full_disk_is_told_of_and_pauses_the_sample(tmp_path):
    command = [sys.executable, "-c", FULL % (FOLDER, FRACTION), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, draft, message = done.stdout.split(maxsplit=2)
    assert int(said) >= 1
    assert draft == "None"
    assert "bytes were written" in message or "File too large" in message
