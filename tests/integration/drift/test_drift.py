"""Request sampling and drift detection against the training data."""

from __future__ import annotations

import io
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from albef import cli
from albef.config import DriftConfig, load
from albef.data.tokenizer import Encoder
from albef.drift import check, reference
from albef.drift.reference import BadReferenceError
from albef.drift.sample import SampleError, by_endpoint, read
from albef.serving import sample
from albef.serving.client import Client, InvalidRequestError
from albef.serving.runtime import ensure
from albef.serving.sample import Draft, Sampler, image_stats, text_stats
from albef.serving.server import TritonServer
from tests import ROOT
from tests.errors import refuses
from tests.served import Served

CONFIG = DriftConfig(
    reference_rows=200, window=200, min_rows=30, max_shift=1.0, max_divergence=0.5, max_size_ratio=2.0, max_unknown=0.05
)


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory) -> Path:
    """Reference file of the training lists."""
    path = tmp_path_factory.mktemp("reference") / "reference.json"
    reference.run(200, path, model.folder / "lists", model.folder, model.folder / "tokenizer" / "tokenizer.json")
    return path


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, level: str, event: str, **fields: str) -> None:
        self.lines.append(f"{level} {event} {fields.get('message', '')}")


def sampler(folder: Path, share: str = "1") -> tuple[Sampler, Log]:
    log = Log()
    return Sampler(log, "vqa", 3, {sample.FOLDER: str(folder), sample.FRACTION: share}), log


def note(to: Sampler, brightness: int = 128) -> None:
    draft = to.draft()
    if draft is not None:
        draft.add_image(image_stats(Image.new("RGB", (40, 30), (brightness,) * 3), 123))
        draft.set_image_rows([0])
        to.write(draft, 1, {"probabilities": np.array([[0.25, 0.5]])})


def test_figures_of_an_image():
    half = Image.new("RGB", (100, 50), "white")
    half.paste("black", (0, 0, 50, 50))
    found = image_stats(half, 777)
    assert (found["width"], found["height"], found["bytes"]) == (100, 50, 777)
    assert found["brightness"] == pytest.approx(0.5, abs=0.01)
    assert found["contrast"] == pytest.approx(0.5, abs=0.02)


def test_figures_of_a_text(model):
    encoder = Encoder.from_file(model.folder / "tokenizer" / "tokenizer.json")
    assert text_stats("Red above  blue", encoder) == {"words": 3, "tokens": 3, "pieces": 1.0, "unknown": 0.0}
    assert text_stats("\u4e2d red", encoder)["unknown"] == 0.5
    assert text_stats("red " * 500, encoder)["words"] == 500  # what the model would cut off, too


def test_only_figures_are_noted(tmp_path):
    to, log = sampler(tmp_path / "new")
    note(to)
    (row,) = read(tmp_path / "new").rows
    assert set(row) == {"time", "endpoint", "version", *sample.COLUMNS}
    assert (row["endpoint"], row["version"], row["width"], row["words"], row["confidence"]) == ("vqa", 3, 40, None, 0.5)
    assert not log.lines


def test_a_share_is_noted(tmp_path):
    to, _ = sampler(tmp_path, "0.25")
    for _ in range(400):
        note(to)
    assert 50 < len(read(tmp_path).rows) < 150
    off = Sampler(Log(), "vqa", 1, {})
    assert off.draft() is None


@pytest.mark.parametrize("share", ["0", "1.5", "half", "nan"])
def test_a_senseless_share_is_said_and_nothing_noted(tmp_path, share):
    to, log = sampler(tmp_path, share)
    assert to.draft() is None
    assert f"{sample.FRACTION} is {share!r}, expected a number above 0 and at most 1" in log.lines[0]


def test_files_stay_small_and_few(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "FILE_BYTES", 1000)
    monkeypatch.setattr(sample, "FILES", 3)
    to, _ = sampler(tmp_path)
    for number in range(60):
        note(to, number)
    files = list(tmp_path.glob("*.jsonl"))
    assert len(files) == 3
    assert all(path.stat().st_size <= 1000 for path in files)
    assert read(tmp_path).rows[-1]["brightness"] == pytest.approx(59 / 255, abs=1e-3)


def test_a_cleared_folder_is_filled_again(tmp_path):
    to, _ = sampler(tmp_path)
    note(to)
    for path in tmp_path.iterdir():
        path.unlink()
    note(to)
    assert len(read(tmp_path).rows) == 1


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="root writes anywhere")
def test_what_cannot_be_written_fails_no_request(tmp_path):
    to, log = sampler(tmp_path / "file" / "folder")
    (tmp_path / "file").write_text("no folder")
    note(to)
    note(to)
    assert len(log.lines) == 1  # then it is silent for a while
    assert "cannot sample a request" in log.lines[0]
    to, log = sampler(tmp_path)
    draft = Draft()
    draft.set_image_rows([7])  # there is no image with this number
    to.write(draft, 1, {})
    assert "IndexError" in log.lines[0]


def test_what_is_no_sample_or_reference_is_named(tmp_path, trained, model):
    with refuses(SampleError, tmp_path / "nowhere"):
        read(tmp_path / "nowhere")
    (tmp_path / "a.jsonl").write_text("nonsense\n[]\n")
    with refuses(SampleError, tmp_path, 2):
        read(tmp_path)
    (tmp_path / "reference.json").write_text('{"endpoints": {"vqa": {"rows": 3}}}')
    with refuses(BadReferenceError, "endpoints.vqa.source"):
        reference.load(tmp_path / "reference.json")
    with refuses(BadReferenceError, "--lists", "--images", "--tokenizer"):
        reference.run(10, tmp_path / "r.json", lists=model.folder / "lists")
    to, _ = sampler(tmp_path / "few")
    note(to)
    few = check.run(CONFIG, tmp_path / "few", trained, tmp_path / "out")
    assert not few.drifted
    assert few.text() == "vqa: 1 questions, no verdict: too few, expected at least 30"


def test_references_have_the_names_of_endpoints(trained):
    assert set(reference.load(trained).endpoints) == {"retrieval", "vqa", "entailment", "compare", "grounding"}


def test_a_broken_line_among_others_is_counted(tmp_path, trained):
    to, _ = sampler(tmp_path / "sample")
    for _ in range(3):
        note(to)
    (path,) = (tmp_path / "sample").iterdir()
    with path.open("a") as file:
        file.write('{"time": "2026')  # the disk was full
    found = check.run(CONFIG, tmp_path / "sample", trained, tmp_path / "out")
    assert found.result["broken_lines"] == 1
    assert found.result["endpoints"]["vqa"]["rows"] == 3


def asked(model: Served, url: str, dark: bool = False, words: str = "") -> None:
    """Send the questions of the training list from several threads."""
    rows = json.loads((model.folder / "lists" / "vqa_train.json").read_text())

    def ask(number: int) -> None:
        row = rows[number % len(rows)]
        image = Image.open(model.folder / row["image"]).convert("RGB")
        if dark:
            image = ImageEnhance.Brightness(image).enhance(0.1)
        file = io.BytesIO()
        image.save(file, "PNG")
        client.answer(file.getvalue(), words + row["question"], k=1)

    with Client(url) as client, ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(64)))


def test_requests_of_a_real_server(model, trained, tmp_path, monkeypatch):
    folder = tmp_path / "requests"
    monkeypatch.delenv(sample.FOLDER, raising=False)
    params = tmp_path / "params.yaml"
    params.write_text((ROOT / "tests/presets/tiny.yaml").read_text())
    assert load(params).drift.min_rows <= 60

    def drift(out: str) -> tuple[int, dict]:
        options = ["--sample", folder, "--reference", trained, "--out", tmp_path / out, "--params", params]
        try:
            code = cli.main(["drift", *map(str, options)])
        except SystemExit as stopped:
            code = int(str(stopped.code))
        return code, json.loads((tmp_path / out / "result.json").read_text())

    def clear() -> None:
        for path in folder.glob("*.jsonl"):
            path.unlink()

    with TritonServer(model.repository, runtime=ensure(), sample=folder, sample_fraction=1.0) as server:
        clear()  # of the questions at the start
        asked(model, server.grpc_url)
        with Client(server.grpc_url) as client, pytest.raises(InvalidRequestError):
            client.entail(b"no image", "red")
        assert {name: len(rows) for name, rows in by_endpoint(read(folder).rows).items()} == {"vqa": 64}
        code, result = drift("good")
        assert (code, result["verdict"]) == (0, "as the reference"), result
        assert {each["name"] for each in result["expectations"]} >= {"brightness_mean", "words_mean", "unknown_share"}
        assert (tmp_path / "good" / "docs" / "index.html").is_file()

        clear()
        asked(model, server.grpc_url, dark=True)
        code, result = drift("dark")
        failed = {each["name"] for each in result["expectations"] if not each["success"]}
        assert (code, result["verdict"]) == (3, "drifted")
        assert "brightness_mean" in failed
        assert not {name for name in failed if name.startswith(("words", "unknown", "width"))}

        clear()
        asked(model, server.grpc_url, words="\u4e2d\u6587 " * 20)
        code, result = drift("words")
        failed = {each["name"] for each in result["expectations"] if not each["success"]}
        assert code == 3
        assert failed >= {"words_mean", "unknown_share"}
        assert not {name for name in failed if name.startswith(("brightness", "width"))}

        clear()
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
        asked(model, server.grpc_url)  # answered, whether noted or not
        folder.chmod(stat.S_IRWXU)
