"""Tests of what the page shows, without a browser."""

from __future__ import annotations

import inspect
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import albef
from albef import cli
from albef.data.schema import NLVR_LABELS, VE_LABELS
from albef.demo.data import Data
from albef.demo.heat import located
from albef.demo.local import Local
from albef.demo.models import TASKS, DemoError, Models
from albef.demo.remote import _ENDPOINTS
from albef.demo.tabs import TABS, Input, lines
from albef.sources import SourceError
from albef.tasks import registry
from tests.errors import refuses


@pytest.fixture(scope="module")
def data(stages: Path) -> Data:
    return Data(stages / "artifacts/images", stages / "artifacts/lists")


@pytest.fixture(scope="module")
def local(stages: Path, data: Data) -> Local:
    return Local(stages / "artifacts/finetune", data)


@pytest.fixture
def image(data: Data) -> bytes:
    return data.images[3].read_bytes()


def test_the_methods_of_tabs_models_and_endpoints_agree() -> None:
    assert [tab.method for tab in TABS] == list(TASKS) == list(_ENDPOINTS)
    assert {*_ENDPOINTS.values()} <= {*registry.endpoints()}
    for tab in TABS:
        parameters = [*inspect.signature(getattr(Models, tab.method)).parameters.values()][1:]
        kinds = {"image": "bytes", "text": "str", "lines": "list[str]", "count": "int"}
        assert [each.annotation for each in parameters] == [kinds[each.kind] for each in tab.inputs], tab.method


def test_texts_are_separated_by_lines_or_by_commas() -> None:
    assert lines("a book, a banana,, a book ") == ["a book", "a banana"]
    assert lines("left, with a dog\n\n right ") == ["left, with a dog", "right"]
    assert lines("  ") == []


def test_fields_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"content")
    assert Input("Image", "image").read(str(tmp_path / "a.png")) == b"content"
    assert Input("Number", "count").read(7.0) == 7
    assert Input("Question", "text").read(" red ") == "red"
    assert Input("Labels", "lines").read("red, blue") == ["red", "blue"]
    assert Input("Captions", "lines", optional=True).read(None) == []
    for empty in (Input("Question", "text"), Input("Labels", "lines"), Input("Left image", "image")):
        with refuses(ValueError, empty.label):
            empty.read(" " if empty.kind != "image" else None)


def test_images_are_found_by_any_end_of_their_path(data: Data, stages: Path) -> None:
    expected = stages / "artifacts/images/3.png"
    assert data.find("images/3.png") == data.find("val/images/3.png") == data.find("3.png") == expected
    assert Data(stages / "artifacts", data.lists).find("images/3.png") == expected
    for name in ("images/300.png", "../lists/answer_list.json", str(stages / "params.yaml"), ""):
        assert data.find(name) is None


def test_examples_are_rows_whose_images_are_there(data: Data, tmp_path: Path) -> None:
    rows = data.rows("nlvr_test")
    assert len(rows) == 4
    assert all(len(paths) == 2 and text.startswith("both images have") for paths, text in rows)
    assert data.rows("vqa_test")[0][1] == "what color is above?"
    shutil.copy(data.images[0], tmp_path / "0.png")
    assert len(Data(tmp_path, data.lists).rows("retrieval_test")) == 1
    assert data.rows("nothing_test") == []


@pytest.mark.parametrize("tab", TABS, ids=lambda tab: tab.method)
def test_every_tab_has_examples_that_its_model_answers(data: Data, local: Local, tab) -> None:
    rows = tab.examples(data)
    assert len(rows) == 4
    values = [*rows[0], *(each.default for each in tab.inputs[len(rows[0]) :])]
    arguments = [each.read(value) for each, value in zip(tab.inputs, values, strict=True)]
    assert getattr(local, tab.method)(*arguments)


def test_words_of_no_training_text_are_unknown(data: Data, tmp_path: Path) -> None:
    assert data.unknown("A zebra above RED, re-d zebra!") == ["zebra", "re", "d"]
    assert data.unknown("what color is {}") == []
    assert Data(data.folder, tmp_path).unknown("zebra") == []


def test_search_gives_the_order_of_the_api_and_probabilities(local: Local, data: Data, stages: Path) -> None:
    model = albef.load(stages / "artifacts/finetune/retrieval")
    found = local.search("red above blue", 5)
    expected = [data.images[match.index] for match in model.retrieve("red above blue", data.images, 5)]
    for (shown, title), path in zip(found, expected, strict=True):
        assert np.array_equal(shown, Image.open(path))
        assert title == f"{model.match(path, ['red above blue'])[0, 0]:.2f}"


def test_captions_are_given_or_known(local: Local, data: Data, image: bytes, stages: Path, tmp_path: Path) -> None:
    found = local.captions(image, [])
    assert len(found) == 5
    assert {*found} <= {*data.captions}
    assert [*found.values()] == sorted(found.values(), reverse=True)
    given = local.captions(image, ["red", "blue"])
    model = albef.load(stages / "artifacts/finetune/retrieval")
    assert given["red"] == pytest.approx(model.match(image, ["red"])[0, 0], abs=1e-5)
    alone = Local(stages / "artifacts/finetune", Data(data.folder, tmp_path))
    with refuses(ValueError, "captions"):
        alone.captions(image, [])


def test_answers_have_probabilities(local: Local, data: Data, image: bytes) -> None:
    answers = local.answer(image, "what color is above?")
    assert len(answers) == 5
    assert {*answers} <= {*data.answers}
    assert {*local.entail(image, "it is red above")} == {*VE_LABELS}
    assert {*local.compare(image, image, "both images have red above")} == {*NLVR_LABELS}
    assert sum(local.classify(image, ["red", "blue"], ["{} above"]).values()) == pytest.approx(1, abs=1e-5)


def test_every_word_of_a_phrase_has_a_heat_map(local: Local, image: bytes) -> None:
    shown, words = local.ground(image, "the red half")
    assert max(shown.size) == 384
    assert [word for _, word in words] == ["the", "red", "half"]
    assert len({panel.tobytes() for panel, _ in words}) == 3


def test_a_box_is_scaled_with_the_image() -> None:
    shown = np.asarray(located(np.zeros((2, 2), dtype=np.float32), (500, 0, 500, 500), Image.new("RGB", (1000, 500))))
    assert shown.shape == (192, 384, 3)
    assert shown[96, 192].any()  # the left side of the box
    assert not shown[96, 180].any()


def test_a_model_answers_for_tasks_with_the_same_modules(stages: Path, data: Data, tmp_path: Path) -> None:
    (tmp_path / "grounding").symlink_to(stages / "artifacts/finetune/grounding")
    assert Local(tmp_path, data).tabs == ["search", "captions", "ground", "classify"]
    with refuses(SourceError, tmp_path / "none", "--models"):
        Local(tmp_path / "none", data)
    with refuses(SourceError, tmp_path / "none", "--images"):
        Local(tmp_path, Data(tmp_path / "none", data.lists))


def test_the_page_says_which_world_the_models_know(local: Local, data: Data) -> None:
    assert "built-in world" in local.about
    assert str(len(data.words)) in local.about


def test_what_prevents_serving_is_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["demo", "--port", str(port)]) == 2
    assert str(port) in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert cli.main(["demo", "--port", "70000"]) == 2
    assert "70000" in capsys.readouterr().err
    assert cli.main(["demo", "--models", str(tmp_path), "--port", "0"]) == 2
    assert str(tmp_path) in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["demo"]) == 2
    assert "gradio" in capsys.readouterr().err


def test_only_our_errors_are_shown_as_they_are(local: Local, data: Data) -> None:
    import gradio as gr

    from albef.demo.page import _run

    run = _run(TABS[1], local.captions)
    with pytest.raises(gr.Error, match="Image"):
        run(None, None)
    assert issubclass(DemoError, ValueError)
