"""VQA: accuracy where people's answers are known, and the file for the challenge's server in any case."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from albef.evaluation.job import Job, spaced
from albef.evaluation.vqa import QuestionSet, VqaResult, evaluate, read_candidates
from albef.evaluation.vqa_metric import normalise, vqa_accuracy

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
