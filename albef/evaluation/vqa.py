"""VQA: answers ranked from a list or generated, and their accuracy where people's are known (paper section 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from albef.config import VqaConfig
from albef.data.schema import SchemaError, load_rows, read_list
from albef.evaluation.encode import by_image, evaluating, pixels_of, words_of
from albef.evaluation.vqa_metric import vqa_accuracy
from albef.model.albef import ALBEF
from albef.model.answers import AnswerTree, generate, rank_answers

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
                faithful = model.config.faithful
                scores = rank_answers(student.decoder, question, mask_q, tree, choose.shortlist, faithful)
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
