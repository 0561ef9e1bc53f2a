"""VQA: answers ranked from a list or generated, and their accuracy where people's are known (paper section 5)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from albef.data.schema import SchemaError, load_rows, read_list
from albef.inference.answer_search import AnswerTree, generate, rank_answers
from albef.inference.encode import by_image, evaluating, pixels_of, words_of
from albef.models.albef import ALBEF
from albef.tasks.job import Job, spaced
from albef.tasks.vqa.metric import normalise, vqa_accuracy
from albef.tasks.vqa.spec import VqaConfig

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


@dataclass(frozen=True)
class QuestionSet:
    """Questions, each with its picture and what people answered (empty where that is not told)."""

    images: list[Path]
    names: list[str]
    questions: list[str]
    ids: list[int | str]
    people: list[list[str]]

    @classmethod
    def read(cls, path: Path, image_root: Path) -> QuestionSet:
        """Read a ``vqa_val`` or ``vqa_test`` list."""
        records = read_list(path)
        given: list[Any] = [r.get("answer", []) for r in records]
        return cls(
            [image_root / r["image"] for r in records],
            [r["image"] for r in records],
            [r["question"] for r in records],
            [r["question_id"] for r in records],
            [[answers] if isinstance(answers, str) else list(answers) for answers in given],
        )


def read_candidates(path: Path) -> list[str]:
    """The answers to choose from.

    Raises:
        SchemaError: If the file is no list of texts, or empty.
    """
    rows = load_rows(path)
    if not rows or not all(isinstance(row, str) and row.strip() for row in rows):
        raise SchemaError(f"{path}: expected a JSON list of answers, none empty")
    return list(dict.fromkeys(rows))


@dataclass(frozen=True)
class VqaResult:
    """Metrics, and for each question its best answers with their probabilities, best first.

    Probabilities of ranked answers sum to 1 over the shortlist; of generated ones they are the model's own.
    """

    metrics: dict[str, float]
    answers: list[list[tuple[str, float]]]

    def submission(self, split: QuestionSet) -> list[dict[str, int | str]]:
        """The EvalAI file: best answer of every question, each question once."""
        rows = {q: a[0][0] if a else "" for q, a in zip(split.ids, self.answers, strict=True)}
        return [{"question_id": question, "answer": answer} for question, answer in rows.items()]


@torch.no_grad()
def evaluate(model: ALBEF, split: QuestionSet, candidates: list[str], encoder: Encoder, config: VqaConfig) -> VqaResult:
    """Answer every question; ``accuracy`` is over those with people's answers and absent where there are none."""
    answers: list[list[tuple[str, float]]] = [[] for _ in split.questions]
    choose = config.evaluate
    student = model.student
    with evaluating(model, config.train) as device:
        rows_of_ids, mask = encoder.encode_batch(candidates, end=True)
        lengths = mask.sum(axis=1).tolist()
        tree = AnswerTree.build([row[:n] for row, n in zip(rows_of_ids.tolist(), lengths, strict=True)]).to(device)
        for rows, pictures in by_image([(path,) for path in split.images], choose.batch_size):
            place = {path: index for index, path in enumerate(pictures)}
            pixels = pixels_of(pictures, model.config.image_size, device)
            keys_values = student.fusion.keys_values(student.vision(pixels))
            ids, mask_q = words_of([split.questions[row] for row in rows], encoder, config.train, device)
            looks = torch.tensor([place[split.images[row]] for row in rows], device=device)
            question = student.fusion(student.text(ids, mask_q), mask_q, keys_values, image_rows=looks)
            if choose.mode == "rank":
                official_quirks = model.config.official_quirks
                scores = rank_answers(student.decoder, question, mask_q, tree, choose.shortlist, official_quirks)
                found = _ranked(scores, candidates, choose.top)
            else:
                free = generate(
                    student.decoder, question, mask_q, encoder.cls, encoder.sep, choose.beams, choose.max_tokens
                )
                found = [[(encoder.tokenizer.decode(a), math.exp(s)) for a, s in each[: choose.top]] for each in free]
            for row, best in zip(rows, found, strict=True):
                answers[row] = best
    return VqaResult(_metrics(answers, split), answers)


def _ranked(scores: Tensor, candidates: list[str], top: int) -> list[list[tuple[str, float]]]:
    best = scores.softmax(dim=1).topk(min(top, len(candidates)), dim=1)
    return [
        [(candidates[c], p) for c, p in zip(row, values, strict=True) if p > 0]
        for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _metrics(answers: list[list[tuple[str, float]]], split: QuestionSet) -> dict[str, float]:
    judged = [
        vqa_accuracy(best[0][0] if best else "", people)
        for best, people in zip(answers, split.people, strict=True)
        if people
    ]
    return {"accuracy": sum(judged) / len(judged)} if judged else {}


KINDS = ("yes/no", "number", "other")


def kind_of(people: Sequence[str]) -> str:
    """Which of `KINDS` a question is, by the answer most people gave; told apart as in the challenge's reports."""
    answer = normalise(Counter(people).most_common(1)[0][0])
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if answer.isdigit() else "other"


def constant_accuracy(split: QuestionSet) -> float:
    """Accuracy of the best single answer to all questions, which needs no picture."""
    judged = [people for people in split.people if people]
    common = Counter(answer for people in judged for answer in people).most_common(8)
    return max(sum(vqa_accuracy(answer, people) for people in judged) / len(judged) for answer, _ in common)


def run(job: Job) -> None:
    """Write ``metrics.json``, ``answers.csv``, ``shown/examples.json`` and ``shown/submission.json`` (EvalAI).

    A split without people's answers has no metrics, and a table without rows.
    """
    split = QuestionSet.read(job.lists / "vqa_test.json", job.images)
    candidates = read_candidates(job.lists / "answer_list.json")
    result = evaluate(job.model, split, candidates, job.encoder, job.config.tasks.vqa)
    judged: dict[str, list[float]] = defaultdict(list)
    for best, people in zip(result.answers, split.people, strict=True):
        if people:
            judged[kind_of(people)].append(vqa_accuracy(best[0][0] if best else "", people))
    means = {kind: sum(judged[kind]) / len(judged[kind]) for kind in KINDS if kind in judged}
    metrics = dict(result.metrics)
    if metrics:
        metrics["chance"] = constant_accuracy(split)
        metrics |= {f"accuracy_{kind.replace('/', '_')}": value for kind, value in means.items()}
    rows = [(kind, len(judged[kind]), value) for kind, value in means.items()]
    job.write_csv("answers.csv", "kind,questions,accuracy", rows)
    job.write_json("shown/submission.json", result.submission(split))
    job.write_json("shown/examples.json", {"examples": examples(split, result)})
    job.write_metrics(metrics)


def examples(split: QuestionSet, result: VqaResult) -> list[dict[str, object]]:
    """A few questions with their best answers; ``accuracy`` of each answer is null where people's are not known."""
    return [
        {
            "image": split.names[row],
            "question": split.questions[row],
            "people": dict(Counter(split.people[row]).most_common()),
            "answers": [
                {
                    "answer": answer,
                    "probability": round(p, 4),
                    "accuracy": round(vqa_accuracy(answer, split.people[row]), 4) if split.people[row] else None,
                }
                for answer, p in result.answers[row]
            ],
        }
        for row in spaced(len(split.questions))
    ]
