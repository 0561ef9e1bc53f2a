"""Specification of image-text retrieval: model, graphs, endpoint.

k = answers of a query.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from albef.config import AlignTrainConfig, TaskConfig
from albef.models.architecture import Architecture
from albef.serving import protocol
from albef.serving.protocol import ANY, GraphSizes, ModelSpec, Settings, TensorSpec
from albef.tasks.spec import TaskSpec

TEXT_GRAPH, FUSION_GRAPH = "text", "fusion"
ITM_LOGITS = "itm_logits"
MATCH = 1
"""Column of the ITM logits for "match"."""
RERANK, WHERE, MIN_SCORE, OFFSET = "rerank", "where", "min_score", "offset"
DISTINCT, TEXT_WEIGHT = "distinct", "text_weight"
IDS, SCORES = "ids", "scores"
DEFAULT_K, DEFAULT_RERANK, DEFAULT_TEXT_WEIGHT = 10, True, 0.5
MAX_OFFSET = 1000


@dataclass(frozen=True, kw_only=True)
class RerankConfig:
    """Two-stage retrieval: ``shortlist`` candidates by ITC, re-ranked by ITM."""

    shortlist: int
    score: Literal["itm", "itm+itc"]  # official: itm
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(TaskConfig):
    """Section ``tasks.retrieval`` of the parameters."""

    train: AlignTrainConfig
    evaluate: RerankConfig


@dataclass(frozen=True)
class RetrievalSettings(Settings):
    """Settings of the retrieval endpoint.

    Args:
        shortlist: Minimum number of ITC candidates to re-rank.
        score: ``itm``, or ``itm+itc`` to add the similarity divided by ``temperature``.
    """

    shortlist: int
    score: str
    temperature: float


def graphs(sizes: GraphSizes) -> dict[str, ModelSpec]:
    """Return the signatures of both encoders and of the ITM head."""
    task = "retrieval"
    text_embeds = TensorSpec(protocol.TEXT_EMBEDS, "FP32", (ANY, sizes.text_width))
    return {
        protocol.VISION: protocol.vision_graph(task, sizes, features=True),
        TEXT_GRAPH: ModelSpec(
            protocol.model_name(task, TEXT_GRAPH),
            protocol.WORDS,
            (text_embeds, TensorSpec(protocol.TEXT_FEAT, "FP32", (sizes.projection,))),
        ),
        FUSION_GRAPH: ModelSpec(
            protocol.model_name(task, FUSION_GRAPH),
            (protocol.image_embeds(sizes), text_embeds, TensorSpec(protocol.ATTENTION_MASK, "INT64", (ANY,))),
            (TensorSpec(ITM_LOGITS, "FP32", (2,)),),
        ),
    }


def encoders(sizes: GraphSizes) -> dict[str, ModelSpec]:
    """Return the signatures of both encoders."""
    return {name: spec for name, spec in graphs(sizes).items() if name in (protocol.VISION, TEXT_GRAPH)}


ENDPOINT = ModelSpec(
    "retrieval",
    (
        protocol.optional(protocol.ONE_TEXT),
        protocol.optional(protocol.ONE_IMAGE),
        protocol.ONE_K,
        TensorSpec(RERANK, "BOOL", (1,), optional=True),
        TensorSpec(WHERE, "BYTES", (1,), optional=True),
        TensorSpec(MIN_SCORE, "FP32", (1,), optional=True),
        TensorSpec(OFFSET, "INT32", (1,), optional=True),
        TensorSpec(DISTINCT, "FP32", (1,), optional=True),
        TensorSpec(TEXT_WEIGHT, "FP32", (1,), optional=True),
    ),
    (TensorSpec(IDS, "BYTES", (ANY,)), TensorSpec(SCORES, "FP32", (ANY,))),
)
"""Retrieval endpoint. Each row is a text query for images, an image query for captions, or a query for images by both.

A query by both searches for the normalized mean of the features, where the text has the weight ``text_weight``. All
other options are the same for all rows of a request:

- ``rerank`` (by default true, false for queries by both) re-ranks the shortlist with the ITM head. ``scores`` are match
  probabilities then, otherwise cosine similarities.
- ``where`` is an SQL condition on the columns of the metadata (`albef.index.items`).
- ``offset`` skips the first answers, ``min_score`` leaves out answers with lower scores.
- ``distinct`` leaves out answers whose cosine similarity to a nearer one is at least this.

Answers are best first. Rows with fewer than others are padded with empty ids of score 0.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``albef ask retrieval``."""
    parser.add_argument("text", nargs="?", help="query text")
    parser.add_argument("--image", type=Path, help="query image file, instead of the text or with it")
    parser.add_argument("-k", type=int, default=5, help="number of answers")
    parser.add_argument(
        "--rerank", action=argparse.BooleanOptionalAction, help="re-rank by ITM; default: unless text and image"
    )
    parser.add_argument("--where", help="condition on the metadata, such as \"year >= 2020 AND source = 'wiki'\"")
    parser.add_argument("--min-score", type=float, help="leave out answers with lower scores")
    parser.add_argument("--offset", type=int, help="answers to skip")
    parser.add_argument("--distinct", type=float, help="leave out answers this similar to a nearer one, such as 0.95")
    parser.add_argument("--text-weight", type=float, help="weight of the text in a query by text and image, 0 to 1")


SPEC = TaskSpec(
    name="retrieval",
    title="Image-text retrieval",
    architecture=Architecture(projections="both", align=True),
    config=RetrievalConfig,
    headline="ir_r1",
    release_metrics=("r_mean", "ir_r1", "ir_r5", "ir_r10", "tr_r1", "tr_r5", "tr_r10"),
    test_list="retrieval_test",
    request_lists=("retrieval_train", "pretrain"),
    graphs=graphs,
    endpoint=ENDPOINT,
    ask_help="find images for a text, or captions for an image",
    add_arguments=add_arguments,
    settings=RetrievalSettings,
)
