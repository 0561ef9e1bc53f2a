"""`albef index` on the repository of a running server."""

from __future__ import annotations

import csv
import json
import shlex

import pytest
from PIL import Image

from albef import cli
from albef.index.index import ImageTextIndex
from albef.serving.client import Client, InvalidRequestError
from albef.serving.server import TritonServer
from tests import ROOT
from tests.docs import blocks
from tests.errors import refuses
from tests.served import copy_endpoints


def index(*arguments) -> int:
    return cli.main(["index", *map(str, arguments)])


def save_image(path, left, right="black"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (32, 32), left)
    image.paste(right, (16, 0, 32, 32))
    image.save(path)
    return path


@pytest.fixture
def repository(model, tmp_path):
    return copy_endpoints(model.repository, tmp_path / "repository", "retrieval")


def everything(client: Client, **query) -> dict[str, float]:
    return {match.id: match.score for match in client.retrieve(k=40, rerank=False, **query)}


def test_the_example_of_own_photos_is_indexed(repository, capsys):
    folder = ROOT / "examples/own_photos"
    with (folder / "metadata.csv").open(newline="") as table:
        captions = {row["file_name"]: row["text"] for row in csv.DictReader(table)}
    assert len(captions) == 20
    assert all(captions.values())
    lines = [shlex.split(line) for block in blocks(folder / "README.md", "bash") for line in block.splitlines()]
    (build,) = (line for line in lines if line[1:3] == ["index", "build"])
    assert index("build", "--repository", repository, "--folder", ROOT / build[build.index("--folder") + 1]) == 0
    found = ImageTextIndex(repository / "retrieval" / "1" / "index").images
    assert set(found.ids(found.rows)) == set(captions)


def test_a_running_server_follows_the_index(model, runtime, repository, client, tmp_path, capsys):
    own = tmp_path / "own"
    mine = save_image(own / "deep" / "mine.png", "red")
    save_image(own / "other.PNG", "green")
    (own / "notes.txt").write_text("no image")
    with TritonServer(repository, runtime=runtime) as server, Client(server.grpc_url) as other:
        before = everything(other, text="red")
        assert index("add", "--repository", repository, "--folder", own) == 0
        assert "change 2" in capsys.readouterr().out
        after = everything(other, text="red")
        assert len(after) == min(len(before) + 2, 40)
        found = ImageTextIndex(repository / "retrieval" / "1" / "index").images
        _, rows = found.search(found.segments.features([found.rows[-2]]), 1)
        assert found.ids(rows[0]) == ["deep/mine.png"]
        # Its features are those of a request with this image: the nearest captions are the same.
        assert other.retrieve(image=mine, k=1)

        assert index("remove", "--repository", repository, "deep/mine.png", "other.PNG") == 0
        assert everything(other, text="red") == pytest.approx(before)

        listed = [{"image": "deep/mine.png", "caption": ["a caption of my own"]}]
        (own / "list.json").write_text(json.dumps(listed))
        assert index("build", "--repository", repository, "--list", own / "list.json", "--dtype", "int8") == 0
        assert "1 images, exact search" in capsys.readouterr().out
        assert list(everything(other, text="red")) == ["deep/mine.png"]
        assert [match.id for match in other.retrieve(image=mine)] == ["a caption of my own"]

        assert index("build", "--repository", repository, "--folder", own) == 0
        with refuses(InvalidRequestError, "captions"):
            other.retrieve(image=mine)

        manifest = repository / "retrieval" / "1" / "index" / "manifest.json"
        text = manifest.read_text()
        manifest.with_suffix(".new").write_text(text.replace('"model_hash": "', '"model_hash": "0000'))
        manifest.with_suffix(".new").replace(manifest)
        assert len(everything(other, text="red")) == 2  # not taken
        assert "cannot open the changed index" in server.log.read_text()

        # With int8, everything is ranked almost as with float32.
        lists = model.folder / "lists" / "retrieval_test.json"
        arguments = ("--list", lists, "--images", model.folder, "--dtype", "int8")
        assert index("build", "--repository", repository, *arguments) == 0
        expected, found = (
            {m.id: m.score for m in each.retrieve(text="red above blue", k=40)} for each in (client, other)
        )
        assert found == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("show", "--model-version", "7"), "no version 7 of retrieval in this model repository"),
        (("add", "--folder", "{tmp}/none"), "none: no images found"),
        (("add", "--list", "{tmp}/none.json"), "none.json"),
        (("add", "--folder", "{tmp}/bad"), "2 images cannot be read"),
        (("remove", "nothing.png"), "no image 'nothing.png' in this index"),
        (("remove", "--captions", "nothing"), "no caption 'nothing' in this index"),
    ],
)
def test_mistakes_are_explained_and_change_nothing(repository, tmp_path, capsys, arguments, complaint):
    bad = tmp_path / "bad"
    save_image(bad / "good.png", "red")
    (bad / "empty.png").write_bytes(b"")
    (bad / "cut.png").write_bytes((bad / "good.png").read_bytes()[:50])
    manifest = repository / "retrieval" / "1" / "index" / "manifest.json"
    before = manifest.read_bytes()
    verb, *rest = (argument.format(tmp=tmp_path) for argument in arguments)
    assert index(verb, "--repository", repository, *rest) == 2
    assert complaint in capsys.readouterr().err
    assert manifest.read_bytes() == before
    if "bad" in rest[-1]:
        assert index(verb, "--repository", repository, *rest, "--skip-unreadable") == 0
        assert ImageTextIndex(manifest.parent).manifest.images.segments[-1].rows == 1


def test_graphs_of_another_model_are_refused(repository, tmp_path, capsys):
    settings = repository / "retrieval" / "1" / "settings.json"
    settings.write_text(settings.read_text().replace('"model_hash": "', '"model_hash": "0000'))
    save_image(tmp_path / "own" / "mine.png", "red")
    assert index("add", "--repository", repository, "--folder", tmp_path / "own") == 2
    assert "model.onnx: model hash" in capsys.readouterr().err
