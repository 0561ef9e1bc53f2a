"""Evaluation of VQA with ranked or generated answers (paper section 5)."""

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
from albef.tasks.vqa.metric import normalize, vqa_accuracy
from albef.tasks.vqa.spec import VqaConfig

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


@dataclass(frozen=True)
class QuestionSet:
    """Questions about images.

    Args:
        images: Path of the image of each question.
        names: Path of this image as written in the list.
        ids: Question ids.
        people: Answers of the annotators; empty if unknown.
    """

    images: list[Path]
    names: list[str]
    questions: list[str]
    ids: list[int | str]
    people: list[list[str]]

    @classmethod
    def read(cls, path: Path, image_root: Path) -> QuestionSet:
        """Read a ``vqa_val`` or ``vqa_test`` list."""
        records = read_list(path)
        people: list[Any] = [r.get("answer", []) for r in records]
        return cls(
            [image_root / r["image"] for r in records],
            [r["image"] for r in records],
            [r["question"] for r in records],
            [r["question_id"] for r in records],
            [[answers] if isinstance(answers, str) else list(answers) for answers in people],
        )


def read_candidates(path: Path) -> list[str]:
    """Read the list of candidate answers, without duplicates.

    Raises:
        SchemaError: If the file is not a non-empty list of non-empty strings.
    """
    rows = load_rows(path)
    if not rows or not all(isinstance(row, str) and row.strip() for row in rows):
        raise SchemaError(f"{path}: expected a non-empty JSON list of non-empty answers")
    return list(dict.fromkeys(rows))


@dataclass(frozen=True)
class VqaResult:
    """Metrics, and the best answers of each question with probabilities, best first.

    Probabilities of ranked answers sum to 1 over the shortlist; generated answers have the
    probabilities of the model.
    """

    metrics: dict[str, float]
    answers: list[list[tuple[str, float]]]

    def submission(self, split: QuestionSet) -> list[dict[str, int | str]]:
        """Return the content of the EvalAI file.

        It has the best answer of each question id, without duplicates.
        """
        rows = {q: a[0][0] if a else "" for q, a in zip(split.ids, self.answers, strict=True)}
        return [{"question_id": question, "answer": answer} for question, answer in rows.items()]


@torch.no_grad()
def evaluate(model: ALBEF, split: QuestionSet, candidates: list[str], encoder: Encoder, config: VqaConfig) -> VqaResult:
    """Answer all questions; ``accuracy`` is absent if no question has annotated answers."""
    answers: list[list[tuple[str, float]]] = [[] for _ in split.questions]
    settings = config.evaluate
    student = model.student
    with evaluating(model, config.train) as device:
        answer_ids, mask = encoder.encode_batch(candidates, end=True)
        lengths = mask.sum(axis=1).tolist()
        tree = AnswerTree.build([row[:n] for row, n in zip(answer_ids.tolist(), lengths, strict=True)]).to(device)
        for rows, images in by_image([(path,) for path in split.images], settings.batch_size):
            position = {path: index for index, path in enumerate(images)}
            pixels = pixels_of(images, model.config.image_size, device)
            keys_values = student.fusion.keys_values(student.vision(pixels))
            ids, mask_q = words_of([split.questions[row] for row in rows], encoder, config.train, device)
            image_rows = torch.tensor([position[split.images[row]] for row in rows], device=device)
            question = student.fusion(student.text(ids, mask_q), mask_q, keys_values, image_rows=image_rows)
            if settings.mode == "rank":
                official_quirks = model.config.official_quirks
                scores = rank_answers(student.decoder, question, mask_q, tree, settings.shortlist, official_quirks)
                batch = _ranked(scores, candidates, settings.top)
            else:
                generated = generate(
                    student.decoder, question, mask_q, encoder.cls, encoder.sep, settings.beams, settings.max_tokens
                )
                batch = [
                    [(encoder.tokenizer.decode(a), math.exp(s)) for a, s in each[: settings.top]] for each in generated
                ]
            for row, best in zip(rows, batch, strict=True):
                answers[row] = best
    return VqaResult(_metrics(answers, split), answers)


def _ranked(scores: Tensor, candidates: list[str], top: int) -> list[list[tuple[str, float]]]:
    best = scores.softmax(dim=1).topk(min(top, len(candidates)), dim=1)
    return [
        [(candidates[c], p) for c, p in zip(row, values, strict=True) if p > 0]
        for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _metrics(answers: list[list[tuple[str, float]]], split: QuestionSet) -> dict[str, float]:
    accuracies = [
        vqa_accuracy(best[0][0] if best else "", people)
        for best, people in zip(answers, split.people, strict=True)
        if people
    ]
    return {"accuracy": sum(accuracies) / len(accuracies)} if accuracies else {}


KINDS = ("yes/no", "number", "other")


def kind_of(people: Sequence[str]) -> str:
    """Return the kind of a question, one of `KINDS`.

    It depends on the most frequent answer, as in the challenge.
    """
    answer = normalize(Counter(people).most_common(1)[0][0])
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if answer.isdigit() else "other"


def constant_accuracy(split: QuestionSet) -> float:
    """Return the accuracy of the best constant answer, which ignores the images."""
    annotated = [people for people in split.people if people]
    common = Counter(answer for people in annotated for answer in people).most_common(8)
    return max(sum(vqa_accuracy(answer, people) for people in annotated) / len(annotated) for answer, _ in common)


def run(job: Job) -> None:
    """Write ``metrics.json``, ``answers.csv``, ``shown/examples.json`` and ``shown/submission.json`` (EvalAI).

    Without annotated answers, there are no metrics and the table has no rows.
    """
    split = QuestionSet.read(job.lists / "vqa_test.json", job.images)
    candidates = read_candidates(job.lists / "answer_list.json")
    result = evaluate(job.model, split, candidates, job.encoder, job.config.tasks.vqa)
    accuracies: dict[str, list[float]] = defaultdict(list)
    for best, people in zip(result.answers, split.people, strict=True):
        if people:
            accuracies[kind_of(people)].append(vqa_accuracy(best[0][0] if best else "", people))
    means = {kind: sum(accuracies[kind]) / len(accuracies[kind]) for kind in KINDS if kind in accuracies}
    metrics = dict(result.metrics)
    if metrics:
        metrics["chance"] = constant_accuracy(split)
        metrics |= {f"accuracy_{kind.replace('/', '_')}": value for kind, value in means.items()}
    rows = [(kind, len(accuracies[kind]), value) for kind, value in means.items()]
    job.write_csv("answers.csv", "kind,questions,accuracy", rows)
    job.write_json("shown/submission.json", result.submission(split))
    job.write_json("shown/examples.json", {"examples": examples(split, result)})
    job.write_metrics(metrics)


def examples(split: QuestionSet, result: VqaResult) -> list[dict[str, object]]:
    """Return a few questions with their best answers; unknown accuracies are None."""
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
