"""Evaluation of VQA with ranked or generated answers (paper section 5)."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from albef import distributed
from albef.data.images import ImageSource, StoredImage
from albef.data.lists import Rows
from albef.data.schema import SchemaError, load_rows
from albef.inference.answer_search import AnswerTree, generate, rank_answers
from albef.inference.encode import distinct, evaluating, keys_values_by_image, words_of
from albef.models.albef import ALBEF
from albef.tasks.job import Job, spaced
from albef.tasks.vqa.spec import VqaConfig

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_DIGITS)} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
# As in the official code, whose misspelled look-behind removes every period that is not followed by a digit.
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32  # the official code passes re.UNICODE as the count
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that'd that'd've that's there'd there'd've
there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _misspellings() -> dict[str, str]:
    """Return contractions that lack one apostrophe -> correct spelling."""
    misspellings = {}
    for word in _CONTRACTIONS.split():
        for position, letter in enumerate(word):
            if letter == "'":
                misspellings[word[:position] + word[position + 1 :]] = word
    return misspellings


_WORDS = _misspellings()


def normalize(answer: str) -> str:
    """Normalize an answer as the official evaluation does."""
    text = answer
    for sign in _PUNCTUATION:
        remove = f"{sign} " in answer or f" {sign}" in answer or _THOUSANDS.search(answer)
        text = text.replace(sign, "" if remove else " ")
    text = _PERIOD.sub("", text, count=_MAX_PERIODS)
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_WORDS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """Return the agreement of annotators with ``answer``.

    It is the mean over annotators of min(1, number of the other annotators who agree / 3). Answers are normalized
    unless all annotators agree, as in the official code.

    Args:
        people: Answers of the annotators, officially ten.
    """

    def strip(text: str) -> str:
        return text.replace("\n", " ").replace("\t", " ").strip()

    answer, expected = strip(answer), [strip(text) for text in people]
    if len(set(expected)) > 1:
        answer, expected = normalize(answer), [normalize(text) for text in expected]
    agreeing = sum(text == answer for text in expected)
    scores = [min(1.0, (agreeing - (text == answer)) / 3) for text in expected]
    return sum(scores) / len(scores)


@dataclass(frozen=True)
class QuestionSet:
    """Questions about images.

    Args:
        images: Image of each question.
        names: Path of this image as written in the list.
        ids: Question ids.
        people: Answers of the annotators; empty if unknown.
    """

    images: list[StoredImage]
    names: list[str]
    questions: list[str]
    ids: list[int | str]
    people: list[list[str]]

    @classmethod
    def of(cls, rows: Rows) -> QuestionSet:
        """Return the split of a ``vqa_val`` or ``vqa_test`` list."""
        records = list(rows)
        people: list[Any] = [r.get("answer", []) for r in records]
        return cls(
            [image for row, record in enumerate(records) for image in rows.images(row, record)],
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


def evaluate(model: ALBEF, split: QuestionSet, candidates: list[str], encoder: Encoder, config: VqaConfig) -> VqaResult:
    """Answer all questions; ``accuracy`` is absent if no question has annotated answers."""
    images, image_rows = distinct([(path,) for path in split.images])
    choices = candidates if config.evaluate.mode == "rank" else None
    answers = answer(model, images, image_rows, split.questions, choices, encoder, config, config.train.num_workers)
    return VqaResult(_metrics(answers, split), answers)


@torch.no_grad()
def answer(
    model: ALBEF,
    images: Sequence[ImageSource],
    image_rows: Sequence[tuple[int, ...]],
    questions: Sequence[str],
    candidates: Sequence[str] | None,
    encoder: Encoder,
    config: VqaConfig,
    workers: int = 0,
) -> list[list[tuple[str, float]]]:
    """Return the best answers of each question with probabilities; see `VqaResult`.

    The ranks of a process group share the work.

    Args:
        image_rows: Index of the image of each question.
        candidates: Answers to rank; None generates answers.
        workers: Processes that load images.
    """
    answers: dict[int, list[tuple[str, float]]] = {}
    settings = config.evaluate
    student = model.student
    with evaluating(model, config.train) as device:
        tree = None if candidates is None else _tree(candidates, encoder).to(device)
        for rows, keys_values, places in keys_values_by_image(model, images, image_rows, settings.batch_size, workers):
            ids, mask_q = words_of([questions[row] for row in rows], encoder, config.train, device)
            question = student.fusion(student.text(ids, mask_q), mask_q, keys_values, image_rows=places[:, 0])
            if candidates is not None and tree is not None:
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
            answers |= zip(rows, batch, strict=True)
    merged = distributed.merge(answers)
    return [merged[row] for row in range(len(questions))]


def _tree(candidates: Sequence[str], encoder: Encoder) -> AnswerTree:
    ids, mask = encoder.encode_batch(candidates, end=True)
    lengths = mask.sum(axis=1).tolist()
    return AnswerTree.build([row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)])


def _ranked(scores: Tensor, candidates: Sequence[str], top: int) -> list[list[tuple[str, float]]]:
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
    """Write ``metrics.json``, ``plots/answers.csv`` and the files in ``shown``.

    These are ``examples.json``, ``predictions.json`` and ``submission.json`` (EvalAI). Without annotated answers, there
    are no metrics and the table has no rows.
    """
    split = QuestionSet.of(job.test_rows())
    candidates = read_candidates(job.lists.folder / "answer_list.json")
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
    job.write_predictions(
        (*(best[0] if best else ("", 0.0)), vqa_accuracy(best[0][0] if best else "", people) if people else None)
        for best, people in zip(result.answers, split.people, strict=True)
    )
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
