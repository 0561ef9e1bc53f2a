"""Types and names shared by exported graphs, the Triton model repository and the client.

Each task's ``spec.py`` builds its signatures from these: the exporter names ONNX inputs by them, `albef.serving.pbtxt`
writes ``config.pbtxt`` from them, the endpoint and the client read them. The file is copied into the model repository,
so it needs the standard library alone.

N = image tokens, L = text tokens (-1: any), P = projection width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

ANY = -1
"""A dimension that may differ between requests."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, type and shape of a tensor.

    Args:
        dtype: Triton's name of the type, without ``TYPE_``.
        dims: Shape without the batch dimension.
        optional: Whether a request may omit it.
        free: Names of the dimensions that are `ANY`, in order; equal names have equal sizes within a graph.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    optional: bool = False
    free: tuple[str, ...] = ("length",)


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
    """Sizes of a model in the signatures of its graphs; 0 for an absent module."""

    image_size: int
    image_tokens: int
    vision_width: int
    text_width: int
    projection: int = 0
    vocabulary: int = 0


@dataclass(frozen=True)
class Settings:
    """Settings of an endpoint, written with the repository; a task may extend them.

    Args:
        task: Task whose graphs answer.
        model_hash, tokenizer_hash: Hashes of its graphs; others are refused.
        image_size: Pixels per side.
        max_words: Texts are cut to this many words, then to ``max_tokens`` tokens, as in training.
        batch_size: Rows of one call of a graph.
        max_k: Largest number of answers per query.
        max_request_pixels: Most pixels of all distinct images of a request.
        max_candidates, max_boxes: Most choices of a request, over all rows.
        decode_workers, decode_seconds: Processes that decode large images, and CPU time for an image.
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
    max_request_pixels: int
    max_candidates: int
    max_boxes: int
    decode_workers: int
    decode_seconds: float


@dataclass(frozen=True)
class LabelSettings(Settings):
    """Settings of an endpoint that classifies.

    Args:
        labels: Label of each class, in order.
    """

    labels: list[str]


# Tensors of graphs that several tasks share.
PIXEL_VALUES = "pixel_values"
INPUT_IDS, ATTENTION_MASK = "input_ids", "attention_mask"
IMAGE_EMBEDS, IMAGE_FEAT = "image_embeds", "image_feat"
TEXT_EMBEDS, TEXT_FEAT = "text_embeds", "text_feat"
SECOND_IMAGE_EMBEDS = "second_image_embeds"
ANSWER_IDS, ANSWER_MASK = "answer_ids", "answer_mask"
QUESTION_STATES, NEXT_LOG_PROBS = "question_states", "next_log_probs"
LOGITS = "logits"

# Graphs that several tasks share.
VISION, CLASSIFY = "vision", "classify"

# Tensors of endpoints that several tasks share.
TEXT, IMAGE, SECOND_IMAGE, K = "text", "image", "second_image", "k"
LABELS, PROBABILITIES = "labels", "probabilities"

PROBE_ID = "albef-probe"
"""Id of the watchdog's requests, which do not count as traffic; the proxy refuses it from clients."""

MAX_TEXT_BYTES = 10_000
LENGTH_STEP = 8
"""Texts are padded to a multiple of this, so that requests of similar length share a batch."""

SETTINGS_FILE, ORIGIN_FILE = "settings.json", "origin.json"
TOKENIZER_FOLDER, INDEX_FOLDER = "tokenizer", "index"
"""Files next to an endpoint's ``model.py``."""
BROKEN = ("is not healthy", "Error when running inference")
"""Parts of the server's errors when the process of a model has died."""
INDEX_MANIFEST = "manifest.json"
"""File in the folder of the index, replaced at each change."""

HASH_KEY, TOKENIZER_KEY = "albef.model_hash", "albef.tokenizer_hash"
TEMPERATURE_KEY, TASK_KEY = "albef.temperature", "albef.task"
"""Keys of the ONNX metadata that tie a graph to its model and its tokenizer."""

WORDS = (TensorSpec(INPUT_IDS, "INT64", (ANY,)), TensorSpec(ATTENTION_MASK, "INT64", (ANY,)))
"""Tokenized text as inputs of a graph."""
ONE_TEXT, ONE_IMAGE = TensorSpec(TEXT, "BYTES", (1,)), TensorSpec(IMAGE, "BYTES", (1,))
"""A text, and an encoded image file, as inputs of an endpoint."""
ONE_K = TensorSpec(K, "INT32", (1,), optional=True)
"""The number of answers, as an input of an endpoint."""


def label_outputs(classes: int) -> tuple[TensorSpec, TensorSpec]:
    """Return the outputs of an endpoint that classifies: labels and their probabilities."""
    return TensorSpec(LABELS, "BYTES", (classes,)), TensorSpec(PROBABILITIES, "FP32", (classes,))


def optional(tensor: TensorSpec) -> TensorSpec:
    """Return the same tensor as one that a request may omit."""
    return replace(tensor, optional=True)


def model_name(task: str, graph: str) -> str:
    """Return the name of a task's graph in the model repository."""
    return f"{task}_{graph}"


def image_embeds(sizes: GraphSizes, name: str = IMAGE_EMBEDS) -> TensorSpec:
    """Return the spec of an encoded image ``(N, W)``."""
    return TensorSpec(name, "FP32", (sizes.image_tokens, sizes.vision_width))


def vision_graph(task: str, sizes: GraphSizes, *, features: bool) -> ModelSpec:
    """Return the signature of an image encoder.

    Args:
        features: Whether it has ITC features ``(P,)`` as a second output.
    """
    outputs = (image_embeds(sizes), TensorSpec(IMAGE_FEAT, "FP32", (sizes.projection,)))
    return ModelSpec(
        model_name(task, VISION),
        (TensorSpec(PIXEL_VALUES, "FP32", (3, sizes.image_size, sizes.image_size)),),
        outputs if features else outputs[:1],
    )


def classify_graph(task: str, sizes: GraphSizes, classes: int, *, images: int = 1) -> ModelSpec:
    """Return the signature of a classifier of a text about one or two encoded images."""
    encoded = [image_embeds(sizes, name) for name in (IMAGE_EMBEDS, SECOND_IMAGE_EMBEDS)[:images]]
    return ModelSpec(model_name(task, CLASSIFY), (*encoded, *WORDS), (TensorSpec(LOGITS, "FP32", (classes,)),))
