"""Specification of visual question answering: model, graphs, endpoint.

C = candidates of a question, A = answer tokens.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Literal

from albef.config import FusionTrainConfig, TaskConfig
from albef.models.architecture import Architecture
from albef.serving import protocol
from albef.serving.protocol import (
    ANSWER_IDS,
    ANSWER_MASK,
    ANY,
    NEXT_LOG_PROBS,
    QUESTION_STATES,
    GraphSizes,
    ModelSpec,
    Settings,
    TensorSpec,
)
from albef.tasks.spec import TaskSpec, image_and_text

QUESTION_GRAPH, DECODER_GRAPH = "question", "decoder"
TOKEN_LOG_PROBS = "token_log_probs"
CANDIDATES, GENERATE, ANSWERS = "candidates", "generate", "answers"
DEFAULT_K = 5
MAX_CANDIDATE_BYTES = 500_000  # per request
ANSWERS_FILE = "answers.json"
"""File of the default candidates, next to the endpoint's ``model.py``."""


@dataclass(frozen=True, kw_only=True)
class AnswerConfig:
    """VQA answers, ranked from a list of candidates or generated."""

    mode: Literal["rank", "generate"]
    shortlist: int  # candidates kept by their first token, then scored completely (official: 128)
    beams: int  # beam width of generation; 1 is greedy
    max_tokens: int  # maximum length of generated answers
    top: int  # answers per question
    batch_size: int  # questions per batch


@dataclass(frozen=True, kw_only=True)
class VqaConfig(TaskConfig):
    """Section ``tasks.vqa`` of the parameters."""

    train: FusionTrainConfig
    evaluate: AnswerConfig


@dataclass(frozen=True)
class VqaSettings(Settings):
    """Settings of the VQA endpoint; see `AnswerConfig`."""

    generate: bool
    shortlist: int
    beams: int
    max_answer_tokens: int
    official_quirks: bool


def graphs(sizes: GraphSizes) -> dict[str, ModelSpec]:
    """Return the signatures of image encoder, question encoder and decoder.

    A row of the decoder's batch is a question with its candidates. Each candidate starts with [CLS] and has at least
    two tokens, padding included. ``token_log_probs`` holds the log-probability of each token given its predecessors, 0
    for [CLS] and padding; the sum is the log-probability of an answer that ends with [SEP]. ``next_log_probs`` holds
    the log-probabilities of the vocabulary after the first candidate, which must then end with padding: after [CLS] for
    the shortlist, after the tokens generated so far for generation.
    """
    task = "vqa"
    states = TensorSpec(QUESTION_STATES, "FP32", (ANY, sizes.text_width))
    shape, names = (ANY, ANY), ("answers", "answer_length")
    return {
        protocol.VISION: protocol.vision_graph(task, sizes, features=False),
        QUESTION_GRAPH: ModelSpec(
            protocol.model_name(task, QUESTION_GRAPH), (protocol.image_embeds(sizes), *protocol.WORDS), (states,)
        ),
        DECODER_GRAPH: ModelSpec(
            protocol.model_name(task, DECODER_GRAPH),
            (
                states,
                TensorSpec(protocol.ATTENTION_MASK, "INT64", (ANY,)),
                TensorSpec(ANSWER_IDS, "INT64", shape, free=names),
                TensorSpec(ANSWER_MASK, "INT64", shape, free=names),
            ),
            (
                TensorSpec(TOKEN_LOG_PROBS, "FP32", shape, free=names),
                TensorSpec(NEXT_LOG_PROBS, "FP32", (sizes.vocabulary,)),
            ),
        ),
    }


ENDPOINT = ModelSpec(
    "vqa",
    (
        protocol.ONE_IMAGE,
        protocol.ONE_TEXT,
        protocol.ONE_K,
        TensorSpec(CANDIDATES, "BYTES", (ANY,), optional=True),
        TensorSpec(GENERATE, "BOOL", (1,), optional=True),
    ),
    (TensorSpec(ANSWERS, "BYTES", (ANY,)), TensorSpec(protocol.PROBABILITIES, "FP32", (ANY,))),
)
"""VQA endpoint. Each row is a question (``text``) about an image file.

Answers are chosen from ``candidates``, by default the list of the task, or generated if ``generate`` is true. All rows
of a request have the same ``k`` and ``generate``. ``probabilities`` are in descending order; those of chosen answers
sum to 1 over the shortlist. Rows with fewer answers are padded with empty answers of probability 0.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``albef ask vqa``."""
    image_and_text(parser, "question")
    parser.add_argument("-k", type=int, default=5, help="number of answers")
    parser.add_argument(
        "--candidates", nargs="+", metavar="ANSWER", help="rank these answers instead of the endpoint's answer list"
    )
    parser.add_argument("--generate", action="store_true", help="generate answers instead of ranking candidates")


SPEC = TaskSpec(
    name="vqa",
    title="Visual question answering",
    architecture=Architecture(decoder=True),
    config=VqaConfig,
    test_list="vqa_test",
    request_lists=("vqa_train",),
    graphs=graphs,
    endpoint=ENDPOINT,
    ask_help="answer a question about an image",
    add_arguments=add_arguments,
    settings=VqaSettings,
)
