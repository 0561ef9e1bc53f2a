"""Benchmark of evaluation against a plain loop over pairs, with equal scores.

    python benchmarks/evaluate.py [--threads 2] [--queries 40] [--json FILE]

The models have the demo's size and random weights. Pixels and words are random; captions and answers have realistic
lengths. The plain loop does the work of the official evaluation. For retrieval it scores each direction separately,
repeats a query for each of its k candidates, projects an image's keys and values for each candidate, pads captions to
30 tokens, and computes every token in every layer. For VQA it encodes the image of every question, repeats the question
for each of its k answers, and computes vocabulary logits for every token of the padded answers. It runs on a sample of
the queries; the measured time is scaled to all queries.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from albef import config as configuration
from albef.inference.answer_search import AnswerTree, rank_answers
from albef.inference.itm_rerank import text_bank
from albef.models.albef import ALBEF
from albef.tasks.retrieval.evaluate import Images, rerank
from albef.tasks.retrieval.spec import RerankConfig

ROOT = Path(__file__).parents[1]
VOCABULARY = 1024
CLS, SEP, FIRST_WORD = 2, 3, 5
CAPTION = 30
"""Caption length in tokens to which the official evaluation pads."""
TOLERANCE = 1e-3
"""Largest accepted difference of fp32 scores: sums of tens of log-probabilities, or single logits."""


@dataclass(frozen=True)
class Result:
    """Seconds for all queries.

    Args:
        sample: Queries on which the plain loop was measured; our evaluation was measured on all of them.
    """

    name: str
    queries: int
    pairs: int
    sample: int
    ours_s: float
    plain_s: float
    max_difference: float

    @property
    def ratio(self) -> float:
        """Speedup over the plain loop."""
        return self.plain_s / self.ours_s


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of a function and its wall-clock seconds."""
    start = time.perf_counter()
    value = function()
    return value, time.perf_counter() - start


def build(task: str) -> ALBEF:
    """Return a random model of the demo's size.

    Weights are twice as large as usual, so that scores differ.
    """
    model = ALBEF(configuration.load(ROOT / "params.yaml").model, VOCABULARY, task).eval()
    for parameter in model.student.parameters():
        if parameter.ndim > 1:
            parameter.mul_(2)
    return model


def words(count: int, mean: float, spread: float, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Return ids and mask ``(count, longest)`` of random texts after [CLS].

    Lengths are normally distributed and clamped to ``low .. high``.
    """
    lengths = (torch.randn(count) * spread + mean).round().long().clamp(low, high)
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    ids = torch.randint(FIRST_WORD, VOCABULARY, mask.shape) * mask
    ids[:, 0] = CLS
    return ids, mask


def retrieval(images: int, texts: int, k: int, sample: int) -> Result:
    """Measure re-ranking in both directions, including text but not image encoding."""
    model = build("retrieval")
    pixels = torch.randn(images, 3, model.config.image_size, model.config.image_size)
    ids, mask = words(texts, 12.5, 3.0, 7, CAPTION)
    embeds, feats = (torch.cat(part) for part in zip(*map(model.encode_image, pixels.split(64)), strict=True))
    config = RerankConfig(shortlist=k, score="itm", batch_size=64)
    bank, encoding = timed(lambda: text_bank(model, ids, mask, config.batch_size))
    similarity = feats @ bank.feats.T
    scores, ranking = timed(lambda: rerank(model, Images(embeds, feats), range(images), bank, similarity, config))

    ids, mask = F.pad(ids, (0, CAPTION - ids.shape[1])), F.pad(mask, (0, CAPTION - mask.shape[1]))
    parts, plain_encoding = timed(
        lambda: [model.encode_text(i, m)[0] for i, m in zip(ids.split(256), mask.split(256), strict=True)]
    )
    states = torch.cat(parts)

    def pairs(image_rows: Tensor, text_rows: Tensor) -> Tensor:
        keys_values = model.student.fusion.keys_values(embeds[image_rows])
        fused = model.student.fusion(states[text_rows], mask[text_rows], keys_values)
        return model.itm_head(fused[:, 0])[:, 1]

    def plain() -> list[tuple[Tensor, Tensor, Tensor]]:
        results = []
        for query in range(sample):
            best = similarity[query].topk(k).indices
            results.append((torch.tensor(query).expand(k), best, pairs(torch.tensor(query).expand(k), best)))
        for query in range(sample):
            best = similarity[:, query].topk(k).indices
            results.append((best, torch.tensor(query).expand(k), pairs(best, torch.tensor(query).expand(k))))
        return results

    expected, looping = timed(plain)
    difference = max(
        float((torch.from_numpy(scores[number >= sample])[rows, columns] - values).abs().max())
        for number, (rows, columns, values) in enumerate(expected)
    )
    total = images + texts
    plain_s = plain_encoding + looping * total / len(expected)
    return Result("retrieval", total, total * k, len(expected), encoding + ranking, plain_s, difference)


def candidates(count: int) -> list[list[int]]:
    """Return distinct answers: [CLS], one to three random tokens, [SEP]."""
    answers: dict[tuple[int, ...], None] = {}
    while len(answers) < count:
        length = int(torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), 1)) + 1
        answers[tuple(torch.randint(FIRST_WORD, VOCABULARY, (length,)).tolist())] = None
    return [[CLS, *answer, SEP] for answer in answers]


def vqa(images: int, per_image: int, answers: int, k: int, sample: int) -> Result:
    """Measure answer ranking for all questions, from pixels to scores."""
    model = build("vqa")
    student, decoder = model.student, model.student.decoder
    pixels = torch.randn(images, 3, model.config.image_size, model.config.image_size)
    count = images * per_image
    ids, mask = words(count, 7.5, 2.0, 4, 20)
    rows = candidates(answers)

    def ours() -> Tensor:
        tree, scores = AnswerTree.build(rows), []
        for start in range(0, images, 64 // per_image):
            batch = pixels[start : start + 64 // per_image]
            questions = slice(start * per_image, (start + len(batch)) * per_image)
            length = int(mask[questions].sum(dim=1).max())
            i, m = ids[questions, :length], mask[questions, :length]
            image_rows = torch.arange(len(batch)).repeat_interleave(per_image)
            keys_values = student.fusion.keys_values(student.vision(batch))
            fused = student.fusion(student.text(i, m), m, keys_values, image_rows=image_rows)
            scores.append(rank_answers(decoder, fused, m, tree, k, official_quirks=False))
        return torch.cat(scores)

    longest = max(map(len, rows))
    answer_ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    answer_mask = (answer_ids != 0).long()

    def plain() -> list[tuple[Tensor, Tensor]]:
        results = []
        for start in range(0, sample, 16):
            questions = slice(start, min(start + 16, sample))
            length = int(mask[questions].sum(dim=1).max())
            i, m = ids[questions, :length], mask[questions, :length]
            fused = student.fuse(pixels[torch.arange(questions.start, questions.stop) // per_image], i, m)
            first = answer_ids[:1, :1].expand(len(i), 1)
            states = decoder(first, torch.ones_like(first), decoder.keys_values(fused), m)
            first_probabilities = decoder.word_logits(states[:, 0]).softmax(dim=-1)[:, answer_ids[:, 1]]
            best = first_probabilities.topk(k, dim=1).indices
            best_ids, best_mask = answer_ids[best.flatten()], answer_mask[best.flatten()]
            keys_values = decoder.keys_values(fused.repeat_interleave(k, dim=0))
            states = decoder(best_ids, best_mask, keys_values, m.repeat_interleave(k, dim=0))
            logits = decoder.word_logits(states)[:, :-1]
            labels = best_ids[:, 1:].masked_fill(best_mask[:, 1:] == 0, -100)
            losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
            results.append((best, -losses.sum(dim=1).view(len(i), k)))
        return results

    scores, ours_s = timed(ours)
    results, looping = timed(plain)
    best, expected = (torch.cat(part) for part in zip(*results, strict=True))
    difference = float((scores[:sample].gather(1, best) - expected).abs().max())
    return Result("vqa", count, count * k, sample, ours_s, looping * count / sample, difference)


def main() -> int:
    """Run the benchmarks; exit with code 1 if scores differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="torch threads (default: chosen by torch)")
    parser.add_argument("--queries", type=int, default=48, help="queries for the plain loop, of VQA or per direction")
    parser.add_argument("--only", choices=("retrieval", "vqa"), help="run one benchmark (default: both)")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    runs: dict[str, Callable[[], Result]] = {
        "retrieval": lambda: retrieval(images=1000, texts=5000, k=128, sample=args.queries),
        "vqa": lambda: vqa(images=200, per_image=5, answers=512, k=128, sample=args.queries),
    }
    results = []
    with torch.no_grad():
        for name, run in runs.items():
            if args.only in (None, name):
                result = run()
                results.append(result)
                print(
                    f"{name}: {result.queries} queries, {result.pairs} pairs, {torch.get_num_threads()} threads\n"
                    f"  ours        {result.ours_s:8.1f} s\n"
                    f"  plain loop  {result.plain_s:8.1f} s, scaled from {result.sample} queries\n"
                    f"  {result.ratio:.1f} times as fast, largest score difference {result.max_difference:.1e}",
                    flush=True,
                )
    if args.json:
        rows = [{**asdict(r), "ratio": r.ratio, "threads": torch.get_num_threads()} for r in results]
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(any(r.max_difference > TOLERANCE for r in results))


if __name__ == "__main__":
    sys.exit(main())
