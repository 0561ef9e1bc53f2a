"""Retrieval evaluation: ITC shortlist, ITM re-rank, recalls both ways (paper section 5; official ``Retrieval.py``).

I = images, T = texts, P = projection width, k = shortlist. Scores: rows are images, columns texts.

Pairs of both directions are scored once, image by image, sharing keys and values (`albef.inference.itm_rerank`). The
scores equal those of a plain loop over pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from albef.data.schema import read_list
from albef.inference.encode import pixels_of, words_of
from albef.inference.itm_rerank import TextBank, match_image, text_bank
from albef.models.albef import ALBEF
from albef.tasks.job import Job, spaced
from albef.tasks.retrieval.spec import RerankConfig, RetrievalConfig

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

NOT_SHORTLISTED = -100.0
"""Score of a pair that neither direction shortlisted, as in the official code."""


@dataclass(frozen=True)
class RetrievalSet:
    """Images, texts, and which text belongs to which image."""

    images: list[Path]
    names: list[str]
    texts: list[str]
    image_of_text: NDArray[np.int64]

    @classmethod
    def read(cls, path: Path, image_root: Path) -> RetrievalSet:
        """Read a list with one row per image and one or several captions each."""
        names: list[str] = []
        texts: list[str] = []
        owner: list[int] = []
        for row, record in enumerate(read_list(path)):
            captions = [record["caption"]] if isinstance(record["caption"], str) else record["caption"]
            names.append(record["image"])
            texts += captions
            owner += [row] * len(captions)
        return cls([image_root / n for n in names], names, texts, np.array(owner, dtype=np.int64))


@dataclass(frozen=True)
class RetrievalResult:
    """Metrics and the scores ``(I, T)`` they come from; per direction, pairs outside its shortlist hold -100."""

    metrics: dict[str, float]
    itc: NDArray[np.float32]
    image_to_text: NDArray[np.float32]
    text_to_image: NDArray[np.float32]


def ranks(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rank (0 is best) of the best relevant column in every row; a tie counts against it."""
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    return np.asarray(((scores >= best) & ~relevant).sum(axis=1), dtype=np.int64)


def recalls(
    scores: NDArray[np.float32], image_of_text: NDArray[np.int64], scores_t: NDArray[np.float32] | None = None
) -> dict[str, float]:
    """Recall at 1, 5, 10 of texts given images (``tr``) and images given texts (``ir``), in [0, 1], and their mean.

    Args:
        scores: ``(I, T)`` for ranking texts.
        image_of_text: Image row of each text.
        scores_t: ``(I, T)`` for ranking images, where they differ.
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
    """Rank a split both ways; ``itc_*`` metrics are those of the shortlist scores before re-ranking."""
    training = model.training
    model.eval()
    device = model.temperature.device
    precise = torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16")
    with precise:
        images = encode_images(model, split.images, config.evaluate.batch_size, device)
        ids, mask = words_of(split.texts, encoder, config.train, torch.device("cpu"))
        texts = text_bank(model, ids, mask, config.evaluate.batch_size)
        similarity = (images.feats.float() @ texts.feats.float().T).cpu()
        scores = rerank(model, images, texts, similarity, config.evaluate)
    model.train(training)
    itc = similarity.numpy()
    metrics = recalls(scores[0], split.image_of_text, scores[1])
    metrics |= {f"itc_{name}": value for name, value in recalls(itc, split.image_of_text).items()}
    return RetrievalResult(metrics, itc, *scores)


@dataclass(frozen=True)
class Images:
    """Encoded images: tokens ``(I, N, W)`` and ITC features ``(I, P)``."""

    embeds: Tensor
    feats: Tensor


def encode_images(model: ALBEF, paths: Sequence[Path], batch: int, device: torch.device) -> Images:
    """Encode picture files, ``batch`` at a time."""
    embeds, feats = [], []
    for start in range(0, len(paths), batch):
        embed, feat = model.encode_image(pixels_of(paths[start : start + batch], model.config.image_size, device))
        embeds.append(embed)
        feats.append(feat)
    return Images(torch.cat(embeds), torch.cat(feats))


def rerank(
    model: ALBEF, images: Images, texts: TextBank, similarity: Tensor, config: RerankConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Match scores ``(I, T)`` of the pairs that each direction shortlists, texts for images and images for texts."""
    count_i, count_t = similarity.shape
    wanted_t = torch.zeros(count_i, count_t, dtype=torch.bool)
    wanted_t.scatter_(1, similarity.topk(min(config.shortlist, count_t), dim=1).indices, True)
    wanted_i = torch.zeros(count_i, count_t, dtype=torch.bool)
    wanted_i.scatter_(0, similarity.topk(min(config.shortlist, count_i), dim=0).indices, True)
    scores = torch.full((count_i, count_t), NOT_SHORTLISTED)
    for image in range(count_i):
        columns = (wanted_t[image] | wanted_i[image]).nonzero()[:, 0]
        keys_values = model.student.fusion.keys_values(images.embeds[image : image + 1])
        scores[image, columns] = match_image(model, texts, keys_values, columns, 4 * config.batch_size).cpu()
    if config.score == "itm+itc":
        scores = torch.where(wanted_t | wanted_i, scores + similarity / model.temperature.item(), scores)
    empty = torch.tensor(NOT_SHORTLISTED)
    return torch.where(wanted_t, scores, empty).numpy(), torch.where(wanted_i, scores, empty).numpy()


_SHOWN = 5
_DIRECTIONS = {"tr": "image to text", "ir": "text to image"}


def run(job: Job) -> None:
    """Write ``metrics.json``, ``recall.csv`` and ``shown/examples.json``."""
    split = RetrievalSet.read(job.lists / "retrieval_test.json", job.images)
    result = evaluate(job.model, split, job.encoder, job.config.tasks.retrieval)
    rows: list[tuple[object, ...]] = []
    for name, value in result.metrics.items():
        stage = "itc" if name.startswith("itc_") else "reranked"
        direction, _, k = name.removeprefix("itc_").partition("_r")
        if direction in _DIRECTIONS:
            rows.append((_DIRECTIONS[direction], stage, k, value))
    job.write_csv("recall.csv", "direction,stage,k,recall", rows)
    job.write_json("shown/examples.json", examples(split, result))
    job.write_metrics(result.metrics)


def _top(scores: NDArray[np.float32]) -> list[tuple[int, float]]:
    order = np.argsort(-scores, kind="stable")[:_SHOWN]
    return [(int(i), round(float(scores[i]), 4)) for i in order]


def examples(split: RetrievalSet, result: RetrievalResult) -> dict[str, list[dict[str, object]]]:
    """A few queries of each direction with their best answers."""
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
