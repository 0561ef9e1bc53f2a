"""Tests of VQA evaluation: batching, input lists and output files."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from albef.data.lists import Images, read_rows
from albef.data.schema import SchemaError
from albef.data.tokenizer import Encoder
from albef.inference.encode import pixels_of, words_of
from albef.models.albef import ALBEF
from albef.tasks.vqa.evaluate import QuestionSet, VqaResult, evaluate, read_candidates, vqa_accuracy
from albef.tasks.vqa.spec import AnswerConfig, VqaConfig
from tests.errors import refuses
from tests.worlds import color_world, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_world(tmp_path_factory.mktemp("vqa") / "world", images=16)


@pytest.fixture(scope="module")
def encoder(world: Path) -> Encoder:
    return Encoder.from_file(world / "tokenizer" / "tokenizer.json")


@pytest.fixture(scope="module")
def model(encoder: Encoder) -> ALBEF:
    torch.manual_seed(0)
    model = ALBEF(tiny_config().model, encoder.vocab_size, "vqa")
    with torch.no_grad():
        model.student.decoder.embeddings.word.weight.mul_(30)
    return model


def _config(**changes: Any) -> VqaConfig:
    section = tiny_config().tasks.vqa
    answer = AnswerConfig(mode="rank", shortlist=4, beams=2, max_tokens=4, top=3, batch_size=5)
    return dataclasses.replace(section, evaluate=dataclasses.replace(answer, **changes))


def _several_questions_per_image(world: Path) -> QuestionSet:
    split = QuestionSet.of(read_rows(world / "lists" / "vqa_val.json", Images(world)))
    return QuestionSet(
        [split.images[n % 4] for n in range(16)],
        [split.names[n % 4] for n in range(16)],
        [f"{q} {'really ' * (n % 3)}" for n, q in enumerate(split.questions)],
        split.ids,
        split.people,
    )


@pytest.mark.parametrize("shortlist", [4, 100])
def test_equals_the_decoder_question_by_question(world: Path, encoder: Encoder, model: ALBEF, shortlist: int) -> None:
    split = _several_questions_per_image(world)
    candidates = read_candidates(world / "lists" / "answer_list.json")
    config = _config(shortlist=shortlist)
    result = evaluate(model, split, candidates, encoder, config)
    assert model.training

    model.eval()
    student, right = model.student, []
    with torch.no_grad():
        for row in range(len(split.questions)):
            pixels = pixels_of([split.images[row]], 32).to(model.device)
            ids, mask = words_of([split.questions[row]], encoder, config.train, model.device)
            keys_values = student.decoder.keys_values(student.fuse(pixels, ids, mask))
            scored = []
            for candidate in candidates:
                answer = torch.from_numpy(encoder.encode_batch([candidate], end=True)[0])
                states = student.decoder(answer[:, :-1], torch.ones_like(answer[:, :-1]), keys_values, mask)
                log_p = student.decoder.word_logits(states)[0].log_softmax(dim=-1)
                each = log_p.gather(1, answer[0, 1:, None])[:, 0]
                scored.append((float(each[0]), float(each.sum()), candidate))
            last = sorted((first for first, _, _ in scored), reverse=True)[min(shortlist, len(scored)) - 1]
            kept = sorted((-whole, text) for first, whole, text in scored if first >= last - 1e-5)
            total = sum(math.exp(-score) for score, _ in kept)
            expected = [(text, math.exp(-score) / total) for score, text in kept[:3]]
            assert [text for text, _ in result.answers[row]] == [text for text, _ in expected]
            assert [p for _, p in result.answers[row]] == pytest.approx([p for _, p in expected], rel=1e-3)
            right.append(vqa_accuracy(expected[0][0], split.people[row]))
    model.train()
    assert result.metrics == {"accuracy": pytest.approx(sum(right) / len(right))}


def test_generated_answers_are_texts_with_their_own_probabilities(world: Path, encoder: Encoder, model: ALBEF) -> None:
    split = _several_questions_per_image(world)
    result = evaluate(model, split, ["red"], encoder, _config(mode="generate"))
    for answers in result.answers:
        assert 1 <= len(answers) <= 2
        assert all(0 < p <= 1 and not set(text) & set("[]") for text, p in answers)


def test_a_split_without_answers_has_no_accuracy(world: Path, encoder: Encoder, model: ALBEF, tmp_path: Path) -> None:
    records = json.loads((world / "lists" / "vqa_test.json").read_text())
    for record in records:
        del record["answer"]
    path = tmp_path / "vqa_test.json"
    path.write_text(json.dumps(records))
    split = QuestionSet.of(read_rows(path, Images(world)))
    result = evaluate(model, split, ["red", "blue"], encoder, _config())
    assert result.metrics == {}
    rows = result.submission(split)
    assert [row["question_id"] for row in rows] == split.ids
    assert {row["answer"] for row in rows} <= {"red", "blue"}


def test_a_question_met_twice_is_submitted_once() -> None:
    split = QuestionSet([], [], [], [7, 8, 7], [])
    result = VqaResult({}, [[("red", 0.6), ("blue", 0.4)], [("green", 1.0)], [("red", 0.6)]])
    assert result.submission(split) == [
        {"question_id": 7, "answer": "red"},
        {"question_id": 8, "answer": "green"},
    ]


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', '["red", ""]', '["red", 3]'])
def test_bad_candidates_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "answer_list.json"
    path.write_text(content)
    with refuses(SchemaError, "answer_list.json"):
        read_candidates(path)


def test_candidates_are_taken_once_each(tmp_path: Path) -> None:
    path = tmp_path / "answer_list.json"
    path.write_text('["red", "blue", "red"]')
    assert read_candidates(path) == ["red", "blue"]


@pytest.mark.parametrize("change", [{"question": ""}, {"question_id": None}, {"dataset": "coco"}, {"answer": []}])
def test_a_bad_row_is_named(world: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    records = json.loads((world / "lists" / "vqa_val.json").read_text())
    records[2] |= change
    path = tmp_path / "vqa_val.json"
    path.write_text(json.dumps(records))
    with refuses(SchemaError, "vqa_val.json", "row 2", *change):
        QuestionSet.of(read_rows(path, Images(world)))
