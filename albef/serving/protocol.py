"""The contract between exported graphs, the Triton model repository and the client.

Every tensor name, type and shape of serving is written here and nowhere else: the exporter names ONNX inputs by it,
`albef.serving.pbtxt` writes ``config.pbtxt`` from it, the endpoint and the client read it. The file travels with the
model repository, so it needs the standard library alone.

N = image tokens, L = text tokens (-1: any), P = projection width, k = answers of a query.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

ANY = -1
"""A dimension that changes from request to request."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a model.

    Args:
        dtype: Triton's name of the type, without ``TYPE_``.
        dims: Without the batch dimension.
        optional: Whether a request may leave it out.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class ModelSpec:
    """Name and signature of a model; the first dimension of every tensor is the batch."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, in order."""
        return [tensor.name for tensor in self.inputs]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in order."""
        return [tensor.name for tensor in self.outputs]


@dataclass(frozen=True)
class GraphSizes:
    """The sizes of a model that show in the signatures of its graphs; 0 is a part that it lacks."""

    image_size: int
    image_tokens: int
    vision_width: int
    text_width: int
    projection: int = 0
    vocabulary: int = 0


PIXEL_VALUES = "pixel_values"
INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
IMAGE_EMBEDS = "image_embeds"
IMAGE_FEAT = "image_feat"
TEXT_EMBEDS = "text_embeds"
TEXT_FEAT = "text_feat"
ITM_LOGITS = "itm_logits"
MATCH = 1
"""Column of the ITM logits that says "match"."""
SECOND_IMAGE_EMBEDS = "second_image_embeds"
LOGITS = "logits"
QUESTION_STATES = "question_states"
ANSWER_IDS, ANSWER_MASK = "answer_ids", "answer_mask"
TOKEN_LOG_PROBS, NEXT_LOG_PROBS = "token_log_probs", "next_log_probs"
HEAT_MAP = "heat_map"
FREE_SIZES = {ANSWER_IDS: ("answers", "answer_length"), ANSWER_MASK: ("answers", "answer_length")}
"""Names of the dimensions `ANY` of a tensor, one name one size in all of a graph; ``length`` for tensors not here."""
ENTAILMENT_CLASSES, NLVR2_CLASSES = 3, 2

VISION, TEXT, FUSION = "vision", "text", "fusion"
QUESTION, DECODER = "question", "decoder"
CLASSIFY = "classify"
HEAT = "heat"
LENGTH_STEP = 8
"""Texts are padded to a multiple of this, so that requests of similar length share a batch."""


def model_name(task: str, graph: str) -> str:
    """Name of a task's graph in the model repository."""
    return f"{task}_{graph}"


def _image_embeds(sizes: GraphSizes, name: str = IMAGE_EMBEDS) -> TensorSpec:
    return TensorSpec(name, "FP32", (sizes.image_tokens, sizes.vision_width))


def _vision(sizes: GraphSizes, task: str, features: bool) -> ModelSpec:
    outputs = (_image_embeds(sizes), TensorSpec(IMAGE_FEAT, "FP32", (sizes.projection,)))
    return ModelSpec(
        model_name(task, VISION),
        (TensorSpec(PIXEL_VALUES, "FP32", (3, sizes.image_size, sizes.image_size)),),
        outputs if features else outputs[:1],
    )


_WORDS = (TensorSpec(INPUT_IDS, "INT64", (ANY,)), TensorSpec(ATTENTION_MASK, "INT64", (ANY,)))


def retrieval_graphs(sizes: GraphSizes, task: str = "retrieval") -> dict[str, ModelSpec]:
    """The graphs behind retrieval: both encoders and the match head over their outputs."""
    text_embeds = TensorSpec(TEXT_EMBEDS, "FP32", (ANY, sizes.text_width))
    return {
        VISION: _vision(sizes, task, features=True),
        TEXT: ModelSpec(
            model_name(task, TEXT),
            _WORDS,
            (text_embeds, TensorSpec(TEXT_FEAT, "FP32", (sizes.projection,))),
        ),
        FUSION: ModelSpec(
            model_name(task, FUSION),
            (_image_embeds(sizes), text_embeds, TensorSpec(ATTENTION_MASK, "INT64", (ANY,))),
            (TensorSpec(ITM_LOGITS, "FP32", (2,)),),
        ),
    }


def vqa_graphs(sizes: GraphSizes, task: str = "vqa") -> dict[str, ModelSpec]:
    """The graphs behind VQA: image encoder, question encoder over its output, and a scorer of answers.

    A row of the decoder's batch is a question with candidates, each [CLS] first and two tokens long at least, padding
    included. ``token_log_probs`` are of every token given those before it, 0 for [CLS] and padding: where a candidate
    ends with [SEP] their sum is the answer's. ``next_log_probs`` are of the whole vocabulary after the first candidate,
    which is to end with padding then: after [CLS] alone for the shortlist, after what is written for generation.
    """
    states = TensorSpec(QUESTION_STATES, "FP32", (ANY, sizes.text_width))
    answers = (ANY, ANY)
    return {
        VISION: _vision(sizes, task, features=False),
        QUESTION: ModelSpec(model_name(task, QUESTION), (_image_embeds(sizes), *_WORDS), (states,)),
        DECODER: ModelSpec(
            model_name(task, DECODER),
            (
                states,
                TensorSpec(ATTENTION_MASK, "INT64", (ANY,)),
                TensorSpec(ANSWER_IDS, "INT64", answers),
                TensorSpec(ANSWER_MASK, "INT64", answers),
            ),
            (TensorSpec(TOKEN_LOG_PROBS, "FP32", answers), TensorSpec(NEXT_LOG_PROBS, "FP32", (sizes.vocabulary,))),
        ),
    }


def entailment_graphs(sizes: GraphSizes, task: str = "entailment") -> dict[str, ModelSpec]:
    """The graphs behind visual entailment: image encoder, and classes of a sentence over its output."""
    return {
        VISION: _vision(sizes, task, features=False),
        CLASSIFY: ModelSpec(
            model_name(task, CLASSIFY),
            (_image_embeds(sizes), *_WORDS),
            (TensorSpec(LOGITS, "FP32", (ENTAILMENT_CLASSES,)),),
        ),
    }


def nlvr2_graphs(sizes: GraphSizes, task: str = "nlvr2") -> dict[str, ModelSpec]:
    """The graphs behind NLVR2: image encoder, and classes of a sentence over two of its outputs."""
    return {
        VISION: _vision(sizes, task, features=False),
        CLASSIFY: ModelSpec(
            model_name(task, CLASSIFY),
            (_image_embeds(sizes), _image_embeds(sizes, SECOND_IMAGE_EMBEDS), *_WORDS),
            (TensorSpec(LOGITS, "FP32", (NLVR2_CLASSES,)),),
        ),
    }


def grounding_graphs(sizes: GraphSizes, task: str = "grounding") -> dict[str, ModelSpec]:
    """The graphs behind grounding: image encoder, and the heat map of every token (Grad-CAM of the match)."""
    side = math.isqrt(sizes.image_tokens - 1)
    return {
        VISION: _vision(sizes, task, features=True),
        HEAT: ModelSpec(
            model_name(task, HEAT),
            (_image_embeds(sizes), *_WORDS),
            (TensorSpec(HEAT_MAP, "FP32", (ANY, side, side)),),
        ),
    }


GRAPHS = {
    "retrieval": retrieval_graphs,
    "vqa": vqa_graphs,
    "entailment": entailment_graphs,
    "nlvr2": nlvr2_graphs,
    "grounding": grounding_graphs,
}
"""The graphs of every task."""

ENDPOINT_TEXT, ENDPOINT_IMAGE, ENDPOINT_K, ENDPOINT_RERANK = "text", "image", "k", "rerank"
ENDPOINT_CANDIDATES, ENDPOINT_GENERATE = "candidates", "generate"
ENDPOINT_BOXES = "boxes"
ENDPOINT_IDS, ENDPOINT_SCORES = "ids", "scores"
ENDPOINT_ANSWERS, ENDPOINT_PROBABILITIES = "answers", "probabilities"
ENDPOINT_LABELS = "labels"
ENDPOINT_HEAT, ENDPOINT_BOX = "heat_map", "box"
DEFAULT_K = 10
DEFAULT_ANSWERS = 5
DEFAULT_RERANK = True
MAX_TEXT_BYTES = 10_000
MAX_CANDIDATES = 10_000
MAX_CANDIDATE_BYTES = 500_000  # of a row
MAX_BOXES = 1_000

_ONE_TEXT, _ONE_IMAGE = TensorSpec(ENDPOINT_TEXT, "BYTES", (1,)), TensorSpec(ENDPOINT_IMAGE, "BYTES", (1,))
_K = TensorSpec(ENDPOINT_K, "INT32", (1,), optional=True)

RETRIEVAL = ModelSpec(
    "retrieval",
    (
        replace(_ONE_TEXT, optional=True),
        replace(_ONE_IMAGE, optional=True),
        _K,
        TensorSpec(ENDPOINT_RERANK, "BOOL", (1,), optional=True),
    ),
    (TensorSpec(ENDPOINT_IDS, "BYTES", (ANY,)), TensorSpec(ENDPOINT_SCORES, "FP32", (ANY,))),
)
"""The retrieval endpoint. A row is a query, by text (answers: images) or by image file (answers: captions).

All rows of a request are of one kind and share ``k`` and ``rerank``. ``scores`` fall from left to right: match logits,
or cosine similarities where ``rerank`` is false.
"""

VQA = ModelSpec(
    "vqa",
    (
        _ONE_IMAGE,
        _ONE_TEXT,
        _K,
        TensorSpec(ENDPOINT_CANDIDATES, "BYTES", (ANY,), optional=True),
        TensorSpec(ENDPOINT_GENERATE, "BOOL", (1,), optional=True),
    ),
    (TensorSpec(ENDPOINT_ANSWERS, "BYTES", (ANY,)), TensorSpec(ENDPOINT_PROBABILITIES, "FP32", (ANY,))),
)
"""The VQA endpoint. A row is a question (``text``) about an image file.

Its answers are chosen from ``candidates``, by default from the list of the task, or written freely where ``generate``
is true. All rows of a request share ``k`` and ``generate``. ``probabilities`` fall from left to right; those of chosen
answers sum to 1 over the shortlist. A row with fewer answers than its neighbours ends with empty ones of probability 0.
"""

ENTAILMENT = ModelSpec(
    "entailment",
    (_ONE_IMAGE, _ONE_TEXT),
    (
        TensorSpec(ENDPOINT_LABELS, "BYTES", (ENTAILMENT_CLASSES,)),
        TensorSpec(ENDPOINT_PROBABILITIES, "FP32", (ENTAILMENT_CLASSES,)),
    ),
)
"""The visual entailment endpoint. A row is a hypothesis (``text``) about an image file. The labels come in the order
of the classes, whatever their ``probabilities``."""

GROUNDING = ModelSpec(
    "grounding",
    (_ONE_IMAGE, _ONE_TEXT, TensorSpec(ENDPOINT_BOXES, "FP32", (ANY, 4), optional=True)),
    (
        TensorSpec(ENDPOINT_HEAT, "FP32", (ANY, ANY)),
        TensorSpec(ENDPOINT_BOX, "FP32", (4,)),
    ),
)
"""The grounding endpoint. A row is an expression (``text``) about an image file: where in the picture is it?

``heat_map`` has a value a patch; ``box`` is x, y, width, height in pixels of the picture: the best of ``boxes``, or
without them the surroundings of the hottest place.
"""

ENDPOINTS = {spec.name: spec for spec in (RETRIEVAL, VQA, ENTAILMENT, GROUNDING)}
"""The endpoints by name, which is the task's; the graphs behind it are `GRAPHS` of it."""

SETTINGS_FILE = "settings.json"
GALLERY_FOLDER = "gallery"
TOKENIZER_FOLDER = "tokenizer"
ANSWERS_FILE = "answers.json"
"""What lies beside an endpoint's ``model.py``."""


@dataclass(frozen=True)
class Settings:
    """What an endpoint is told when the repository is written.

    Args:
        task: Whose graphs answer.
        model_hash, tokenizer_hash: Those of its graphs; others are refused.
        image_size: Pixels per side.
        max_words: Texts are cut to this many words, then to ``max_tokens`` tokens, as in training.
        batch_size: Rows of one call of a graph.
        max_k: Answers of a query, at most.
    """

    task: str
    model_hash: str
    tokenizer_hash: str
    image_size: int
    max_words: int
    max_tokens: int
    batch_size: int
    max_k: int
    max_image_bytes: int
    max_image_pixels: int


@dataclass(frozen=True)
class RetrievalSettings(Settings):
    """Of the retrieval endpoint.

    Args:
        shortlist: ITC candidates that are re-ranked, at the least.
        score: ``itm`` or ``itm+itc``, which adds the similarity divided by ``temperature``.
    """

    shortlist: int
    score: str
    temperature: float


@dataclass(frozen=True)
class EntailmentSettings(Settings):
    """Of the visual entailment endpoint: ``labels`` in the order of the classes."""

    labels: list[str]


@dataclass(frozen=True)
class VqaSettings(Settings):
    """Of the VQA endpoint, see `albef.config.VqaEvaluateConfig`."""

    generate: bool
    shortlist: int
    beams: int
    max_answer_tokens: int
    official_quirks: bool


HASH_KEY = "albef.model_hash"
TOKENIZER_KEY = "albef.tokenizer_hash"
TEMPERATURE_KEY = "albef.temperature"
TASK_KEY = "albef.task"
"""Keys of the ONNX metadata that tie a graph to its model and its tokenizer."""
