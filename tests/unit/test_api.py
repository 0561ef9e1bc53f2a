"""Tests of the Python API with small random models."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

import albef
from albef.api import Albef, Classification, Grounding, Match, UnsupportedTaskError
from albef.config import ConfigError
from albef.data.images import ImageError
from albef.data.schema import NLVR_LABELS, VE_LABELS
from albef.data.tokenizer import TokenizerError
from albef.inference.boxes import best_box
from albef.inference.encode import pixels_of, words_of
from albef.inference.gradcam import itm_map
from albef.serving.requests import Answer
from albef.sources import SourceError
from albef.tasks import registry
from albef.weights import convert
from albef.weights.official import CheckpointError
from tests.errors import refuses

TEXTS = ["red above blue", "a flag of green and white, above black", "yellow"]
TEMPLATES = ["{} above", "a flag of {}"]
METHODS: dict[str, tuple[str, Callable[[Albef, Any], Any]]] = {
    "embed_image": ("retrieval", lambda m, i: m.embed_image(i)),
    "embed_text": ("retrieval", lambda m, i: m.embed_text(TEXTS)),
    "similarity": ("retrieval", lambda m, i: m.similarity(i, TEXTS)),
    "match": ("retrieval", lambda m, i: m.match(i, TEXTS)),
    "retrieve": ("retrieval", lambda m, i: [r.score for r in m.retrieve("red", i)]),
    "answer": ("vqa", lambda m, i: [a.probability for a in m.answer(i[0], "what color is above", ["red", "blue"])]),
    "entail": ("entailment", lambda m, i: [*m.entail(i[0], TEXTS[0]).probabilities.values()]),
    "compare": ("nlvr2", lambda m, i: [*m.compare(i[0], i[1], TEXTS[0]).probabilities.values()]),
    "classify": ("retrieval", lambda m, i: [*m.classify(i, ["red", "blue"], TEMPLATES)[0].probabilities.values()]),
    "ground": ("grounding", lambda m, i: m.ground(i[0], TEXTS[0]).heat),
}


@pytest.fixture(scope="module")
def load(stages: Path) -> Callable[[str], Albef]:
    """Function that loads the model of a stage once."""

    @cache
    def loaded(task: str) -> Albef:
        return albef.load(folder_of(stages, task), device="cpu")

    return loaded


def folder_of(stages: Path, task: str) -> Path:
    return stages / "artifacts" / ("finetune" if registry.spec(task).fine_tuning else "") / task


@pytest.fixture(scope="module")
def paths(stages: Path) -> list[Path]:
    return [stages / "artifacts" / "images" / f"{number}.png" for number in range(10)]


def inputs(model: Albef, images: list[Path], texts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tensors for the network."""
    cpu = torch.device("cpu")
    train = model.config.tasks.retrieval.train
    return (pixels_of(images, 32), *words_of(texts, model.encoder, train, cpu))


@pytest.mark.parametrize("task", registry.names())
def test_nothing_of_the_training_is_in_memory(load: Callable[[str], Albef], stages: Path, task: str) -> None:
    model = load(task).model
    saved = torch.load(folder_of(stages, task) / "model.pth", weights_only=True)["model"]
    expected = {name for name in saved if not name.startswith(("teacher.", "queue."))}
    assert set(model.state_dict()) == expected
    assert not {name for name, _ in model.named_modules()} & {"teacher", "queue"}
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    assert not model.training
    model.eval()  # needs no teacher either


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", registry.names())
def test_a_method_needs_the_weights_of_its_task(
    load: Callable[[str], Albef], paths: list[Path], task: str, method: str
) -> None:
    needed, call = METHODS[method]
    if task in registry.models_for(needed):
        assert np.isfinite(np.asarray(call(load(task), paths[:3]))).all()
        return
    with pytest.raises(UnsupportedTaskError) as caught:
        call(load(task), paths[:3])
    for name in (method, needed, f"for {task},"):
        assert name in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_bf16_is_close_to_fp32(load: Callable[[str], Albef], stages: Path, paths: list[Path], method: str) -> None:
    task, call = METHODS[method]
    half = albef.load(folder_of(stages, task), device="cpu", precision="bf16")
    expected, found = (np.asarray(call(model, paths[:3])) for model in (load(task), half))
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())


def test_embeddings_are_those_of_the_network(load: Callable[[str], Albef], paths: list[Path]) -> None:
    model = load("retrieval")
    pixels, ids, mask = inputs(model, paths, TEXTS)
    with torch.no_grad():
        images, texts = model.model.encode_image(pixels)[1], model.model.encode_text(ids, mask)[1]
    np.testing.assert_allclose(model.embed_image(paths), images, atol=1e-6)  # more images than a batch
    np.testing.assert_allclose(model.embed_text(TEXTS), texts, atol=1e-6)
    np.testing.assert_allclose(model.similarity(paths, tuple(TEXTS)), images @ texts.T, atol=1e-6)
    labels = ["red", "blue", "green and white"]
    means = np.stack([model.embed_text([each.format(label) for each in TEMPLATES]).mean(axis=0) for label in labels])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    logits = torch.from_numpy(model.embed_image(paths) @ means.T) / model.model.temperature
    for row, found in zip(logits.softmax(dim=1).tolist(), model.classify(paths, labels, TEMPLATES), strict=True):
        assert found.probabilities == pytest.approx(dict(zip(labels, row, strict=True)), abs=1e-5)
        assert found.label == labels[int(np.argmax(row))]
    single = model.similarity(paths[0], TEXTS[0])
    assert (single.shape, single.dtype) == ((1, 1), np.float32)


def test_match_and_retrieve(load: Callable[[str], Albef], paths: list[Path]) -> None:
    model = load("grounding")
    with torch.no_grad():
        logits = np.zeros((len(paths), len(TEXTS), 2), dtype=np.float32)
        for row, path in enumerate(paths):
            for column, text in enumerate(TEXTS):
                pixels, ids, mask = inputs(model, [path], [text])
                embeds = model.model.student.vision(pixels)
                logits[row, column] = model.model.match(model.model.student.text(ids, mask), mask, embeds)[0]
    exp = np.exp(logits)
    np.testing.assert_allclose(model.match(paths, TEXTS), exp[..., 1] / exp.sum(-1), atol=1e-5)

    similarity = model.similarity(paths, TEXTS)
    scores = logits[..., 1] + similarity / model.model.temperature.item()
    assert model.config.tasks.retrieval.evaluate.score == "itm+itc"
    found = model.retrieve(TEXTS, paths, k=4, shortlist=6)
    for column, matches in enumerate(found):
        shortlist = np.argsort(-similarity[:, column])[:6]
        best = sorted(shortlist, key=lambda row: -scores[row, column])[:4]
        assert [match.index for match in matches] == best
        np.testing.assert_allclose([m.score for m in matches], scores[best, column], rtol=1e-4)
    alone = model.retrieve(TEXTS[0], paths, k=4, shortlist=6)
    assert [match.index for match in alone] == [match.index for match in found[0]]
    assert isinstance(found[0][0], Match)
    assert len(model.retrieve("red", paths[:3])) == 3


def test_answers(load: Callable[[str], Albef], paths: list[Path]) -> None:
    model, candidates = load("vqa"), ["red", "blue", "dark red and green", "red"]
    questions = ["what color is above", "is it red", "which of them is below the other of the two"]
    ranked = model.answer(paths[:3], questions, candidates)
    for path, question, answers in zip(paths, questions, ranked, strict=False):
        alone = model.answer(path, question, candidates)
        assert [a.text for a in alone] == [a.text for a in answers]
        assert {a.text for a in answers} == set(candidates)
        assert sum(a.probability for a in answers) == pytest.approx(1, abs=1e-4)
        assert all(isinstance(a, Answer) for a in alone)
    assert [a.text for a in model.answer(paths[0], questions[0], candidates, num=1)] == [ranked[0][0].text]
    generated = model.answer(paths[0], questions)
    assert [len(answers) for answers in generated] == [model.config.tasks.vqa.evaluate.beams] * 3
    assert generated[1][0].text == model.answer(paths[0], questions[1], num=1)[0].text


def test_classification(load: Callable[[str], Albef], paths: list[Path]) -> None:
    entail, compare = load("entailment"), load("nlvr2")
    one_image = entail.entail(paths[0], TEXTS)
    two_images = compare.compare(paths[:3], paths[5], TEXTS)
    for row, text in enumerate(TEXTS):
        with torch.no_grad():
            expected = entail.model.student.classify(*inputs(entail, paths[:1], [text])).softmax(-1)[0]
            pair = compare.model.student.classify(*inputs(compare, [paths[row], paths[5]], [text])).softmax(-1)[0]
        assert tuple(one_image[row].probabilities) == VE_LABELS
        assert tuple(two_images[row].probabilities) == NLVR_LABELS
        np.testing.assert_allclose([*one_image[row].probabilities.values()], expected, atol=1e-5)
        np.testing.assert_allclose([*two_images[row].probabilities.values()], pair, atol=1e-5)
        assert one_image[row].label == VE_LABELS[int(expected.argmax())]
    assert isinstance(compare.compare(paths[0], paths[5], TEXTS[0]), Classification)


def test_grounding(load: Callable[[str], Albef], paths: list[Path]) -> None:
    model = load("grounding")
    block = model.config.tasks.grounding.evaluate.block
    found = model.ground(paths[3], TEXTS)  # of different lengths, so that the batch is padded
    for text, grounding in zip(TEXTS, found, strict=True):
        expected = itm_map(model.model, *inputs(model, [paths[3]], [text]), block)[0].mean(dim=0)
        np.testing.assert_allclose(grounding.heat, expected, atol=1e-4 * float(expected.max()))
    wide = Image.open(paths[3]).resize((50, 30))
    one = model.ground(wide, TEXTS[0])
    assert isinstance(one, Grounding)
    assert (one.overlay().size, one.overlay().mode) == ((50, 30), "RGB")
    assert one.overlay().tobytes() != one.image.tobytes()
    x, y, width, height = one.box
    assert x >= 0
    assert y >= 0
    assert 0 < width <= 50 - x + 1e-6
    assert 0 < height <= 30 - y + 1e-6
    boxes = [[0, 0, 25, 30], [25, 0, 25, 30], [10, 10, 5, 5]]
    chosen = model.ground(wide, TEXTS[0], boxes).box
    assert list(chosen) == boxes[best_box(one.heat, 50, 30, boxes)]


def test_every_kind_of_image(load: Callable[[str], Albef], tmp_path: Path) -> None:
    model = load("retrieval")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    upright = Image.fromarray(pixels)
    expected = model.embed_image(upright)
    turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # to be shown after a turn to the right
    turned.save(tmp_path / "turned.png", exif=exif)
    opaque = Image.fromarray(np.concatenate([pixels, np.full((20, 30, 1), 255, np.uint8)], axis=2))
    file = io.BytesIO()
    upright.save(file, "PNG")
    images = [tmp_path / "turned.png", str(tmp_path / "turned.png"), Image.open(tmp_path / "turned.png"), opaque]
    images += [pixels, np.asarray(opaque), file.getvalue()]
    np.testing.assert_allclose(model.embed_image(images), np.repeat(expected, len(images), axis=0), atol=1e-6)
    assert model.embed_image(np.stack([pixels] * 3)).shape == (3, expected.shape[1])
    gray = np.asarray(upright.convert("L"))
    np.testing.assert_allclose(
        model.embed_image([gray, gray[..., None]]), model.embed_image([upright.convert("L")] * 2)
    )


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ImageError, lambda m, p: m.embed_image(p / "absent.png")),
        (ImageError, lambda m, p: m.embed_image(b"no image")),
        (ImageError, lambda m, p: m.embed_image(np.zeros((4, 4, 3), dtype=np.float32))),
        (ImageError, lambda m, p: m.embed_image(np.zeros((3, 4, 5), dtype=np.uint8))),
        (ImageError, lambda m, p: m.embed_image([3])),
        (ValueError, lambda m, p: m.embed_image([])),
        (ValueError, lambda m, p: m.embed_text([])),
        (ValueError, lambda m, p: m.embed_text(["red", " .,!"])),
        (ValueError, lambda m, p: m.embed_text([b"red"])),
        (ValueError, lambda m, p: m.retrieve("red", [np.zeros((4, 4), dtype=np.uint8)], k=0)),
        (ValueError, lambda m, p: m.ground([np.zeros((4, 4), dtype=np.uint8)] * 2, ["red", "blue", "green"])),
    ],
)
def test_wrong_input_is_refused(
    load: Callable[[str], Albef], tmp_path: Path, error: type[Exception], call: Callable[[Albef, Path], Any]
) -> None:
    with pytest.raises(error):
        call(load("retrieval"), tmp_path)


def test_a_stage_is_loaded_from_any_folder(
    load: Callable[[str], Albef], stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stages / "artifacts" / "images")
    expected = load("retrieval").embed_text(TEXTS)
    np.testing.assert_array_equal(albef.load("../finetune/retrieval").embed_text(TEXTS), expected)
    model = tmp_path / "alone.pth"
    shutil.copyfile(folder_of(stages, "retrieval") / "model.pth", model)
    with pytest.raises(SourceError) as caught:
        albef.load(model)
    assert "params=" in str(caught.value)
    with pytest.raises(SourceError) as caught:
        albef.load(model, params=stages / "params.yaml")
    assert "tokenizer=" in str(caught.value)
    for tokenizer in (stages / "artifacts/tokenizer", str(stages / "artifacts/tokenizer/tokenizer.json")):
        found = albef.load(model, params=stages / "params.yaml", tokenizer=tokenizer)
        np.testing.assert_array_equal(found.embed_text(TEXTS), expected)


@pytest.mark.parametrize(("task", "student_only"), [("pretrain", False), ("nlvr2", False), ("vqa", True)])
def test_a_published_checkpoint(
    load: Callable[[str], Albef], stages: Path, tmp_path: Path, paths: list[Path], task: str, student_only: bool
) -> None:
    file = tmp_path / "published.pth"
    convert.export_official(folder_of(stages, task), file, student_only)
    model = albef.load(file, params=stages / "params.yaml", tokenizer=stages / "artifacts/tokenizer", device="cpu")
    state = load(task).model.state_dict()
    assert model.task == task
    assert model.model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.model.state_dict().items())
    with pytest.raises(CheckpointError) as caught:  # of another size than the published ones
        albef.load(file)
    assert "params=" in str(caught.value)


def test_unusable_sources_are_named(stages: Path, tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "absent.pth"):
        with pytest.raises(SourceError) as caught:
            albef.load(source)
        assert str(source) in str(caught.value)
    torch.save({"model": Path("code")}, tmp_path / "unsafe.pth")
    with pytest.raises(CheckpointError):
        albef.load(tmp_path / "unsafe.pth")
    folder = folder_of(stages, "vqa")
    (tmp_path / "params.yaml").write_text("model: 3")
    with pytest.raises(ConfigError):
        albef.load(folder, params=tmp_path / "params.yaml")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError):
        albef.load(folder, tokenizer=tmp_path / "tokenizer.json")
    with refuses(ValueError, "fp16"):
        albef.load(folder, precision="fp16")  # type: ignore[arg-type]


def test_another_vocabulary_is_refused(stages: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(stages / "artifacts/tokenizer/tokenizer.json"))
    tokenizer.add_tokens(["zebra"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(SourceError):
        albef.load(folder_of(stages, "vqa"), tokenizer=tmp_path)


def test_the_package_has_no_other_lazy_attributes() -> None:
    with pytest.raises(AttributeError):
        albef.absent  # type: ignore[attr-defined]  # noqa: B018
