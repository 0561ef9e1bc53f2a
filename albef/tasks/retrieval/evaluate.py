"""Evaluation of retrieval: ITC shortlist, ITM re-ranking, recalls in both directions.

Paper section 5; official ``Retrieval.py``. The pairs of both directions are scored once, image by image, with shared
keys and values (`albef.inference.itm_rerank`). The scores equal those of a plain loop over pairs.

I = images, T = texts, N = image tokens, W = width, P = projection width, k = shortlist. Rows of scores are images,
columns are texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from albef import distributed
from albef.data.images import ImageSource
from albef.data.lists import Rows
from albef.inference.encode import evaluating, loaded, pixels_of, words_of
from albef.inference.itm_rerank import TextBank, match_image, text_bank
from albef.models.albef import ALBEF
from albef.models.precision import full_precision
from albef.progress import Progress
from albef.tasks.job import Job, spaced
from albef.tasks.retrieval.spec import MATCH, RerankConfig, RetrievalConfig

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

NOT_SHORTLISTED = -100.0
"""Score of pairs outside the shortlist, as in the official code."""


@dataclass(frozen=True)
class RetrievalSet:
    """Images and texts of a split.

    Args:
        images: Images.
        names: Paths of the images as written in the list.
        image_of_text: Image row of each text.
    """

    images: Sequence[ImageSource]
    names: list[str]
    texts: list[str]
    image_of_text: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Rows) -> RetrievalSet:
        """Return the split of a list with one or more captions per image."""
        images: list[ImageSource] = []
        names: list[str] = []
        texts: list[str] = []
        image_of_text: list[int] = []
        for row, record in enumerate(rows):
            captions = [record["caption"]] if isinstance(record["caption"], str) else record["caption"]
            images += rows.images(row, record)
            names.append(record["image"])
            texts += captions
            image_of_text += [row] * len(captions)
        return cls(images, names, texts, np.array(image_of_text, dtype=np.int64))


@dataclass(frozen=True)
class RetrievalResult:
    """Metrics and scores ``(I, T)``.

    Args:
        itc: Similarities.
        image_to_text, text_to_image: Scores after re-ranking, -100 outside the shortlist of the direction.
    """

    metrics: dict[str, float]
    itc: NDArray[np.float32]
    image_to_text: NDArray[np.float32]
    text_to_image: NDArray[np.float32]


def ranks(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the rank of the best relevant column of each row.

    The best rank is 0; ties with irrelevant columns count as worse.
    """
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    return np.asarray(((scores >= best) & ~relevant).sum(axis=1), dtype=np.int64)


def recalls(
    scores: NDArray[np.float32], image_of_text: NDArray[np.int64], scores_t: NDArray[np.float32] | None = None
) -> dict[str, float]:
    """Return recalls at 1, 5 and 10, and their mean ``r_mean``.

    Keys are ``tr_rK`` for texts given images and ``ir_rK`` for images given texts.

    Args:
        scores: Scores ``(I, T)`` for ranking texts.
        image_of_text: Image row of each text.
        scores_t: Scores ``(I, T)`` for ranking images; by default ``scores``.
    """
    relevant = image_of_text[None, :] == np.arange(len(scores))[:, None]
    by_direction = {
        "tr": ranks(scores, relevant),
        "ir": ranks((scores if scores_t is None else scores_t).T, relevant.T),
    }
    result = {f"{name}_r{k}": float((rank < k).mean()) for name, rank in by_direction.items() for k in (1, 5, 10)}
    result["r_mean"] = float(np.mean(list(result.values())))
    return result


@torch.no_grad()
def evaluate(model: ALBEF, split: RetrievalSet, encoder: Encoder, config: RetrievalConfig) -> RetrievalResult:
    """Rank a split in both directions; ``itc_*`` are the metrics before re-ranking.

    The ranks of a process group share the images.
    """
    step, count = config.evaluate.batch_size, len(split.images)
    rows = [row for batch in distributed.batches(count, step) for row in batch]
    with evaluating(model, config.train):
        own = encode_images(model, [split.images[row] for row in rows], step, config.train.num_workers)
        feats = distributed.merge(dict(zip(rows, own.feats.cpu().numpy(), strict=True)))
        ids, mask = words_of(split.texts, encoder, config.train, torch.device("cpu"))
        texts = text_bank(model, ids, mask, step)
        with full_precision(texts.feats):
            image_feats = torch.from_numpy(np.stack([feats[row] for row in range(count)])).to(texts.feats.device)
            similarity = (image_feats @ texts.feats.T).cpu()
        scores = rerank(model, own, rows, texts, similarity, config.evaluate)
    itc = similarity.numpy()
    metrics = recalls(scores[0], split.image_of_text, scores[1])
    metrics |= {f"itc_{name}": value for name, value in recalls(itc, split.image_of_text).items()}
    return RetrievalResult(metrics, itc, *scores)


@dataclass(frozen=True)
class Images:
    """Encoded images: tokens ``(I, N, W)`` and ITC features ``(I, P)``."""

    embeds: Tensor
    feats: Tensor


def encode_images(model: ALBEF, images: Sequence[ImageSource], batch: int, workers: int = 0) -> Images:
    """Encode images in batches of ``batch``, loaded by ``workers`` processes."""
    if not images:
        return Images(torch.empty(0, 1, 1), torch.empty(0, model.config.projection))
    embeds, feats = [], []
    batches = [images[start : start + batch] for start in range(0, len(images), batch)]
    for pixels in loaded(partial(pixels_of, size=model.config.image_size), batches, workers):
        embed, feat = model.encode_image(pixels.to(model.device, non_blocking=True))
        embeds.append(embed)
        feats.append(feat)
    return Images(torch.cat(embeds), torch.cat(feats))


def rerank(
    model: ALBEF, own: Images, rows: Sequence[int], texts: TextBank, similarity: Tensor, config: RerankConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return match scores ``(I, T)`` for ranking texts and for ranking images.

    Each is `NOT_SHORTLISTED` outside the shortlist of its direction.

    Args:
        own: Images that this rank scores.
        rows: Their rows among all images.
        similarity: ITC similarities ``(I, T)`` of all images.
    """
    count_i, count_t = similarity.shape
    shortlist_t = torch.zeros(count_i, count_t, dtype=torch.bool)
    shortlist_t.scatter_(1, similarity.topk(min(config.shortlist, count_t), dim=1).indices, True)
    shortlist_i = torch.zeros(count_i, count_t, dtype=torch.bool)
    shortlist_i.scatter_(0, similarity.topk(min(config.shortlist, count_i), dim=0).indices, True)
    pairs = shortlist_t | shortlist_i
    part = match_pairs(model, own, texts, similarity[rows], pairs[rows], config)
    merged = distributed.merge({row: part[place, pairs[row]].numpy() for place, row in enumerate(rows)})
    scores = torch.full(similarity.shape, NOT_SHORTLISTED)
    for row, values in merged.items():
        scores[row, pairs[row]] = torch.from_numpy(values)
    empty = torch.tensor(NOT_SHORTLISTED)
    return torch.where(shortlist_t, scores, empty).numpy(), torch.where(shortlist_i, scores, empty).numpy()


def match_pairs(
    model: ALBEF, images: Images, texts: TextBank, similarity: Tensor, pairs: Tensor, config: RerankConfig
) -> Tensor:
    """Return match scores ``(I, T)`` of some pairs, `NOT_SHORTLISTED` for all others.

    Args:
        similarity: ITC similarities ``(I, T)``.
        pairs: Whether to score a pair ``(I, T)``.
    """
    scores = torch.full(pairs.shape, NOT_SHORTLISTED)
    scored = pairs.any(dim=1).nonzero()[:, 0].tolist()
    for image in Progress(scored, description="re-ranking", unit="images", enabled=distributed.rank() == 0, keep=False):
        columns = pairs[image].nonzero()[:, 0]
        keys_values = model.student.fusion.keys_values(images.embeds[image : image + 1])
        logits = match_image(model, texts, keys_values, columns, 4 * config.batch_size).cpu()
        scores[image, columns] = logits[:, MATCH]
    if config.score == "itm+itc":
        scores = torch.where(pairs, scores + similarity / model.temperature.item(), scores)
    return scores


_RANKS = 5  # answers per example
_DIRECTIONS = {"tr": "image to text", "ir": "text to image"}


def run(job: Job) -> None:
    """Write ``metrics.json``, ``plots/recall.csv`` and ``shown/examples.json``.

    The metric ``chance`` is the text-to-image recall at 1 of a random ranking.
    """
    split = RetrievalSet.of(job.test_rows())
    result = evaluate(job.model, split, job.encoder, job.config.tasks.retrieval)
    rows: list[tuple[object, ...]] = []
    for name, value in result.metrics.items():
        stage = "itc" if name.startswith("itc_") else "reranked"
        direction, _, k = name.removeprefix("itc_").partition("_r")
        if direction in _DIRECTIONS:
            rows.append((_DIRECTIONS[direction], stage, k, value))
    job.write_csv("recall.csv", "direction,stage,k,recall", rows)
    job.write_json("shown/examples.json", examples(split, result))
    job.write_metrics({**result.metrics, "chance": 1 / len(split.images)})


def _top(scores: NDArray[np.float32]) -> list[tuple[int, float]]:
    order = np.argsort(-scores, kind="stable")[:_RANKS]
    return [(int(i), round(float(scores[i]), 4)) for i in order]


def examples(split: RetrievalSet, result: RetrievalResult) -> dict[str, list[dict[str, object]]]:
    """Return a few queries of each direction with their best answers."""
    return {
        "text_to_image": [
            {
                "query": split.texts[t],
                "target": split.names[split.image_of_text[t]],
                "ranked": [{"image": split.names[i], "score": s} for i, s in _top(result.text_to_image[:, t])],
            }
            for t in spaced(len(split.texts))
        ],
        "image_to_text": [
            {
                "query": split.names[i],
                "target": [split.texts[t] for t in np.flatnonzero(split.image_of_text == i)],
                "ranked": [{"caption": split.texts[t], "score": s} for t, s in _top(result.image_to_text[i])],
            }
            for i in spaced(len(split.names))
        ],
    }
