"""The contract between exported graphs, the Triton model repository and the client.

Every tensor name, type and shape of serving is written here and nowhere else: the exporter names ONNX inputs by it,
`albef.serving.pbtxt` writes ``config.pbtxt`` from it, the endpoint and the client read it. The file travels with the
model repository, so it needs the standard library alone.

N = image tokens, L = text tokens (-1: any), P = projection width, k = answers of a query.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """The sizes of a model that show in the signatures of its graphs."""

    image_size: int
    image_tokens: int
    vision_width: int
    text_width: int
    projection: int


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

VISION, TEXT, FUSION = "vision", "text", "fusion"
LENGTH_STEP = 8
"""Texts are padded to a multiple of this, so that requests of similar length share a batch."""


def model_name(task: str, graph: str) -> str:
    """Name of a task's graph in the model repository."""
    return f"{task}_{graph}"


def retrieval_graphs(sizes: GraphSizes, task: str = "retrieval") -> dict[str, ModelSpec]:
    """The graphs behind retrieval: both encoders and the match head over their outputs."""
    image_embeds = TensorSpec(IMAGE_EMBEDS, "FP32", (sizes.image_tokens, sizes.vision_width))
    text_embeds = TensorSpec(TEXT_EMBEDS, "FP32", (ANY, sizes.text_width))
    mask = TensorSpec(ATTENTION_MASK, "INT64", (ANY,))
    return {
        VISION: ModelSpec(
            model_name(task, VISION),
            (TensorSpec(PIXEL_VALUES, "FP32", (3, sizes.image_size, sizes.image_size)),),
            (image_embeds, TensorSpec(IMAGE_FEAT, "FP32", (sizes.projection,))),
        ),
        TEXT: ModelSpec(
            model_name(task, TEXT),
            (TensorSpec(INPUT_IDS, "INT64", (ANY,)), mask),
            (text_embeds, TensorSpec(TEXT_FEAT, "FP32", (sizes.projection,))),
        ),
        FUSION: ModelSpec(
            model_name(task, FUSION),
            (image_embeds, text_embeds, mask),
            (TensorSpec(ITM_LOGITS, "FP32", (2,)),),
        ),
    }


ENDPOINT_TEXT, ENDPOINT_IMAGE, ENDPOINT_K, ENDPOINT_RERANK = "text", "image", "k", "rerank"
ENDPOINT_IDS, ENDPOINT_SCORES = "ids", "scores"
DEFAULT_K = 10
DEFAULT_RERANK = True
MAX_TEXT_BYTES = 10_000

RETRIEVAL = ModelSpec(
    "retrieval",
    (
        TensorSpec(ENDPOINT_TEXT, "BYTES", (1,), optional=True),
        TensorSpec(ENDPOINT_IMAGE, "BYTES", (1,), optional=True),
        TensorSpec(ENDPOINT_K, "INT32", (1,), optional=True),
        TensorSpec(ENDPOINT_RERANK, "BOOL", (1,), optional=True),
    ),
    (TensorSpec(ENDPOINT_IDS, "BYTES", (ANY,)), TensorSpec(ENDPOINT_SCORES, "FP32", (ANY,))),
)
"""The retrieval endpoint. A row is a query, by text (answers: images) or by image file (answers: captions).

All rows of a request are of one kind and share ``k`` and ``rerank``. ``scores`` fall from left to right: match logits,
or cosine similarities where ``rerank`` is false.
"""

SETTINGS_FILE = "settings.json"
GALLERY_FOLDER = "gallery"
TOKENIZER_FOLDER = "tokenizer"
"""What lies beside an endpoint's ``model.py``."""


@dataclass(frozen=True)
class RetrievalSettings:
    """What the retrieval endpoint is told when the repository is written.

    Args:
        task: Whose graphs answer.
        image_size: Pixels per side.
        max_words: Texts are cut to this many words, then to ``max_tokens`` tokens, as in training.
        batch_size: Rows of one call of a graph.
        shortlist: ITC candidates that are re-ranked, at the least.
        score: ``itm`` or ``itm+itc``, which adds the similarity divided by ``temperature``.
    """

    task: str
    image_size: int
    max_words: int
    max_tokens: int
    batch_size: int
    shortlist: int
    max_k: int
    max_image_bytes: int
    max_image_pixels: int
    score: str
    temperature: float


HASH_KEY = "albef.model_hash"
TOKENIZER_KEY = "albef.tokenizer_hash"
TEMPERATURE_KEY = "albef.temperature"
TASK_KEY = "albef.task"
"""Keys of the ONNX metadata that tie a graph to its model and its tokenizer."""
