"""Tests of the report sections of the tasks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from albef.data.tokenizer import Encoder
from albef.models.albef import ALBEF
from albef.report import page
from albef.report.source import ReportError
from albef.tasks import classification_report, evaluation
from albef.tasks.grounding.report import read_references
from albef.tasks.vqa.report import read_questions
from albef.weights import checkpoint
from tests.errors import refuses
from tests.worlds import color_world, tiny_config

TASKS = ("vqa", "entailment", "nlvr2", "grounding")
GREEN = (0x1A, 0x7F, 0x37)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``world`` and the evaluations of random models below ``artifacts``."""
    folder = tmp_path_factory.mktemp("report")
    world, config = color_world(folder / "world", images=16), tiny_config()
    encoder = Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    for task in TASKS:
        torch.manual_seed(0)
        checkpoint.save(ALBEF(config.model, encoder.vocab_size, task), folder / "model" / "model.pth")
        out = folder / "artifacts" / "evaluate" / task
        evaluation.run(config, task, folder / "model", world / "lists", world, world / "tokenizer", out)
    return folder


@pytest.fixture
def artifacts(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated / "artifacts", tmp_path / "artifacts"))


def write(artifacts: Path, evaluated: Path) -> str:
    page.run(artifacts, evaluated / "world", artifacts / "report")
    return (artifacts / "report" / "index.html").read_text()


def edit(path: Path, change: Any) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def keep(artifacts: Path, task: str) -> Path:
    """Delete the evaluations of all other tasks; return the folder of this one."""
    for other in TASKS:
        if other != task:
            shutil.rmtree(artifacts / "evaluate" / other)
    return artifacts / "evaluate" / task


def green(path: Path) -> int:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return int((np.abs(pixels - GREEN).sum(axis=2) < 8).sum())


def test_every_task_has_its_section_without_any_training_run(artifacts: Path, evaluated: Path) -> None:
    text = write(artifacts, evaluated)
    for title in ("Visual question answering", "Visual entailment", "NLVR2", "Visual grounding"):
        assert title in text
    for task in TASKS:
        assert f"{task}_examples.png" in text
        with Image.open(artifacts / "report" / f"{task}_examples.png") as image:
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 20
    assert len(list((artifacts / "report").glob("grounding_words_*.png"))) == 8
    assert 'for comparison: a random proposal</td><td class="n">25<' in text
    assert "losses.svg" not in text
    assert "Export" not in text


def test_curves_show_every_run_there_is(artifacts: Path, evaluated: Path) -> None:
    keep(artifacts, "entailment")
    for run in ("text_assignment", "finetune/nlvr2"):
        (artifacts / run).mkdir(parents=True)
        (artifacts / run / "history.csv").write_text("step,loss,ta_loss\n1,2,2\n2,1,1\n")
        (artifacts / run / "metrics.json").write_text('{"loss": 0.0625}')
    text = write(artifacts, evaluated)
    assert "losses.svg" in text
    assert "text assignment" in text
    assert "finetune nlvr2" in text
    assert text.count("0.0625") == 2


def test_confusion_counts_every_pair(artifacts: Path, evaluated: Path) -> None:
    folder = keep(artifacts, "entailment")
    (folder / "plots").mkdir(exist_ok=True)
    (folder / "plots" / "confusion.csv").write_text("actual,predicted\n" + "a,b\n" * 37 + "b,b\n" * 41)
    text = write(artifacts, evaluated)
    assert '<td>a</td><td class="n">0</td><td class="n">37</td>' in text
    assert '<td>b</td><td class="n">0</td><td class="n">41</td>' in text


@pytest.mark.parametrize("task", ["vqa", "entailment"])
def test_calibration_is_that_of_the_evaluated_rows(artifacts: Path, evaluated: Path, task: str) -> None:
    folder = keep(artifacts, task)
    rows = json.loads((folder / "shown" / "predictions.json").read_text())
    accuracy = json.loads((folder / "metrics.json").read_text())["accuracy"]
    assert np.mean([row["accuracy"] for row in rows]) == pytest.approx(accuracy, abs=1e-4)
    assert all(0 < row["probability"] <= 1 for row in rows)
    text = write(artifacts, evaluated)
    assert f"{task}_calibration.svg" in text
    assert "expected calibration error" in text


@pytest.mark.parametrize(("task", "field", "other"), [("vqa", "accuracy", 0.6), ("entailment", "label", "nothing")])
def test_the_right_answer_is_green(artifacts: Path, evaluated: Path, task: str, field: str, other: Any) -> None:
    path = keep(artifacts, task) / "shown/examples.json"

    def right(data: Any) -> None:
        for example in data["examples"]:
            if task == "vqa":
                example["answers"][0][field] = 1.0

    edit(path, right)
    write(artifacts, evaluated)
    shown = green(artifacts / "report" / f"{task}_examples.png")

    def wrong(data: Any) -> None:
        for example in data["examples"]:
            for part in example["answers"] if task == "vqa" else [example]:
                part[field] = other

    edit(path, wrong)
    write(artifacts, evaluated)
    # The data set's images contain green too, in another shade.
    assert shown > green(artifacts / "report" / f"{task}_examples.png") + 200


def test_the_true_box_is_green(artifacts: Path, evaluated: Path) -> None:
    path = keep(artifacts, "grounding") / "shown/examples.json"
    write(artifacts, evaluated)
    shown = green(artifacts / "report" / "grounding_examples.png")
    edit(path, lambda data: [example.update(box=[-9, -9, 1, 1]) for example in data["examples"]])
    write(artifacts, evaluated)
    assert shown > green(artifacts / "report" / "grounding_examples.png") + 500


def test_without_peoples_answers_there_is_no_table(artifacts: Path, evaluated: Path) -> None:
    folder = keep(artifacts, "vqa")
    (folder / "metrics.json").write_text("{}")
    assert "No answers to compare with" in write(artifacts, evaluated)


def test_cards_hold_what_the_evaluation_says(evaluated: Path) -> None:
    folder = evaluated / "artifacts" / "evaluate"
    questions = read_questions(folder / "vqa" / "shown/examples.json")
    assert questions[0].expected == "red (7), dark red (3)"
    statements = classification_report.read_examples(folder / "nlvr2" / "shown/examples.json")
    assert len(statements[0].images) == 2
    for card in statements:
        assert [p for _, p, _ in card.answers] == sorted((p for _, p, _ in card.answers), reverse=True)
        assert [c for c, _, right in card.answers if right] == [card.expected]
    mode, references = read_references(folder / "grounding" / "shown/examples.json")
    assert mode == "itm"
    assert references[0].box == [0, 0, 32, 16]


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("vqa/shown/examples.json", '{"examples": [{"image": "a"}]}', []),
        ("nlvr2/shown/examples.json", '{"classes": 3}', []),
        ("grounding/shown/examples.json", "[]", []),
        ("entailment/plots/confusion.csv", "row\n1\n", ["'actual'", "'predicted'"]),
        ("grounding/shown/maps/000000.png", None, []),
    ],
)
def test_a_bad_file_is_named(
    artifacts: Path, evaluated: Path, name: str, content: str | None, names: list[str]
) -> None:
    path = keep(artifacts, name.split("/")[0]).parent / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with refuses(ReportError, path, *names):
        write(artifacts, evaluated)
    assert not (artifacts / "report").exists()
