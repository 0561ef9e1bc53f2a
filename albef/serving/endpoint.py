"""What the endpoints of a model repository share: reading requests, calling graphs, answering errors.

For Triton's Python backend, which provides ``triton_python_backend_utils``; it lies beside every ``model.py``. The
graphs are other models of the repository, called in the version of the endpoint, so that a release never mixes two
models.

B = rows of a request, L = text tokens, H = pixels a side.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from albef.data import image_guard
from albef.data.images import ImageError, to_pixels
from albef.data.text import clean
from albef.data.tokenizer import Encoder, load
from albef.serving import metrics, protocol
from albef.serving.metrics import Log, Meter
from albef.serving.onnxfile import metadata
from albef.serving.protocol import ModelSpec, Settings
from albef.serving.sample import Draft, Sampler

Array = NDArray[Any]
_request: ContextVar[Any] = ContextVar("_request")
"""The request that is being answered: the graphs it calls are traced as parts of it."""
_draft: ContextVar[Draft | None] = ContextVar("_draft", default=None)
"""What is noted of that request, where it belongs to the sample."""
_STOPPING = "Server not ready"
"""What the server answers to calls of graphs once it was told to stop."""


class QueryError(ValueError):
    """The caller's fault: answered with INVALID_ARGUMENT.

    Args:
        field: The input that is wrong; counted by it.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class GraphError(RuntimeError):
    """A graph behind the endpoint failed."""


class StoppingError(RuntimeError):
    """The server is about to stop and takes no more calls of graphs; another server may answer."""


def failure(error: object, code: int) -> Any:
    """An answer that reports an error. Always a new object: sharing one between answers crashes the server."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))


def values_of(request: Any, name: str) -> Array | None:
    """An input of a request, None where it has none."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def has(request: Any, name: str) -> bool:
    """Whether a request has an input."""
    return pb_utils.get_input_tensor_by_name(request, name) is not None


def constant(request: Any, name: str, default: Any) -> Any:
    """The value of an input that all rows of a request share.

    Raises:
        QueryError: If the rows differ.
    """
    values = values_of(request, name)
    if values is None:
        return default
    values = values.reshape(-1)
    if (values != values[0]).any():
        raise QueryError(f"'{name}' must be the same for all queries of a request", name)
    return values[0].item()


class Endpoint(ABC):
    """An endpoint of one task; a subclass answers requests.

    Attributes:
        spec: Its signature.
        settings_type: Kind of its settings.
    """

    spec: ClassVar[ModelSpec]
    settings_type: ClassVar[type[Settings]]

    def initialize(self, args: dict[str, str]) -> None:
        """Open settings and tokenizer, and check that they belong to the graphs."""
        self.name, self.version = args["model_name"], int(args["model_version"])
        self.folder = Path(args["model_repository"]) / args["model_version"]
        self.settings: Any = self.settings_type(**json.loads((self.folder / protocol.SETTINGS_FILE).read_text()))
        self.encoder = Encoder(load(self.folder / protocol.TOKENIZER_FOLDER))
        self.log = Log(self.name, self.version)
        self._check()
        self.meter = Meter(pb_utils, self.name, self.version)
        # Under another name it is on trial, see `albef.serving.release`.
        given: dict[str, str] | None = None if self.name == self.spec.name else {}
        self.sampler = Sampler(self.log, self.name, self.version, given)

    def _check(self) -> None:
        """Refuse graphs and a tokenizer that are not those of the settings.

        Raises:
            ValueError: If a graph is missing or of another model, or the tokenizer another one.
        """
        settings = self.settings
        words = hashlib.sha256((self.folder / protocol.TOKENIZER_FOLDER / "tokenizer.json").read_bytes()).hexdigest()
        if words != settings.tokenizer_hash:
            raise ValueError(f"{self.name}: the tokenizer is not the one its model was trained with")
        sizes = protocol.GraphSizes(1, 1, 1, 1)
        for spec in protocol.GRAPHS[settings.task](sizes).values():
            folder = self.folder.parents[1] / spec.name
            if not folder.is_dir():  # a repository in object storage is fetched model by model
                self.log("warning", "unchecked", message=f"{spec.name} is not beside this model")
                continue
            found = metadata(folder / str(self.version) / "model.onnx").get(protocol.HASH_KEY)
            if found != settings.model_hash:
                raise ValueError(
                    f"{spec.name} version {self.version} is of model {str(found)[:12]}, "
                    f"but {self.name} was written for {settings.model_hash[:12]}"
                )

    async def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch of requests, each on its own."""
        answers = await asyncio.gather(*(self.respond(request) for request in requests))
        self.meter.flush()
        return answers

    async def respond(self, request: Any) -> Any:
        """The answer to one request, or what was wrong with it."""
        _request.set(request)
        draft = self.sampler.draft()
        _draft.set(draft)
        start = time.perf_counter()
        rows = int(request.inputs()[0].shape()[0])
        self.meter.add(metrics.REQUESTS)
        self.meter.add(metrics.ROWS, rows)
        try:
            outputs = await self.answer(request)
        except (QueryError, ImageError) as error:
            reason = getattr(error, "field", protocol.ENDPOINT_IMAGE)
            self.meter.add(metrics.REFUSALS, reason=reason)
            self._note("warning", "refused", request, rows, start, reason=reason, message=str(error))
            return failure(error, pb_utils.TritonError.INVALID_ARG)
        except StoppingError as error:
            self._note("warning", "stopping", request, rows, start)
            return failure(error, pb_utils.TritonError.UNAVAILABLE)
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            self.meter.add(metrics.FAILURES)
            self._note("error", "failed", request, rows, start, message=message, trace=traceback.format_exc())
            return failure(message, pb_utils.TritonError.INTERNAL)
        if draft is not None:
            self.sampler.write(draft, rows, outputs)
        if self.log.requests:
            self._note("info", "answered", request, rows, start)
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor(name, np.ascontiguousarray(outputs[name])) for name in self.spec.output_names
            ]
        )

    def _note(self, level: str, event: str, request: Any, rows: int, start: float, **fields: Any) -> None:
        spent = round(1000 * (time.perf_counter() - start), 1)
        self.log(level, event, request=request.request_id(), rows=rows, milliseconds=spent, **fields)

    @abstractmethod
    async def answer(self, request: Any) -> dict[str, Array]:
        """The outputs of a request by name.

        Raises:
            QueryError, ImageError: If the request is not as the contract says.
            GraphError: If a graph fails.
        """

    def count(self, request: Any, default: int) -> int:
        """``k`` of a request."""
        k = int(constant(request, protocol.ENDPOINT_K, default))
        if not 1 <= k <= self.settings.max_k:
            name = protocol.ENDPOINT_K
            raise QueryError(f"'{name}' is {k}, expected 1 to {self.settings.max_k}", name)
        return k

    def text(self, value: bytes, name: str = protocol.ENDPOINT_TEXT) -> str:
        """One text of a request."""
        if len(value) > protocol.MAX_TEXT_BYTES:
            raise QueryError(f"'{name}' has {len(value)} bytes, expected at most {protocol.MAX_TEXT_BYTES}", name)
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise QueryError(f"'{name}' is not UTF-8 ({error})", name) from error
        if not any(map(str.isprintable, clean(text).replace(" ", ""))):  # the tokenizer drops what cannot be seen
            raise QueryError(f"'{name}' is empty, or holds nothing but punctuation", name)
        return text

    def texts(self, request: Any) -> list[str]:
        """The texts of a request, one a row."""
        values = values_of(request, protocol.ENDPOINT_TEXT)
        texts = [] if values is None else [self.text(value) for value in values.reshape(-1)]
        if draft := _draft.get():
            draft.read(texts, self.encoder)
        return texts

    def pixels(self, value: bytes) -> tuple[Array, tuple[int, int]]:
        """One image of a request ``(3, H, H)``, and its width and height."""
        name, limit = protocol.ENDPOINT_IMAGE, self.settings.max_image_bytes
        if len(value) > limit:
            raise QueryError(f"'{name}' has {len(value)} bytes, expected at most {limit}", name)
        picture = image_guard.read(value, self.settings.max_image_pixels, f"'{name}'")
        if draft := _draft.get():
            draft.picture(picture, len(value))
        return to_pixels(picture, self.settings.image_size), picture.size

    def words(self, texts: Sequence[str]) -> dict[str, Array]:
        """Ids and mask ``(B, L)`` as a graph takes them, L a multiple of the contract's step."""
        limit, step = self.settings.max_tokens, protocol.LENGTH_STEP
        ids, mask = self.encoder.encode_batch(texts, max_tokens=limit, max_words=self.settings.max_words)
        length = ids.shape[1]
        extra = max(min(-(-length // step) * step, limit) - length, 0)
        ids = np.pad(ids, ((0, 0), (0, extra)), constant_values=self.encoder.pad)
        mask = np.pad(mask, ((0, 0), (0, extra)))
        return {protocol.INPUT_IDS: ids, protocol.ATTENTION_MASK: mask}

    async def look(self, request: Any, outputs: Sequence[str]) -> tuple[list[Array], list[tuple[int, int]]]:
        """Encode the images of a request.

        An image that several rows show is decoded and encoded once. Each goes to the graph by itself: the server's
        batcher joins them, and its response cache knows those that it has seen before.

        Returns:
            The graph's ``outputs``, each with a row a row of the request, and width and height of each image.
        """
        values = values_of(request, protocol.ENDPOINT_IMAGE)
        if values is None:
            raise QueryError(f"'{protocol.ENDPOINT_IMAGE}' is missing", protocol.ENDPOINT_IMAGE)
        files = [bytes(value) for value in values.reshape(-1)]
        different = {file: place for place, file in enumerate(dict.fromkeys(files))}
        # One after the other: at its full size a picture may take hundreds of megabytes.
        read = [self.pixels(file) for file in different]
        self.meter.add(metrics.IMAGES, len(read), outcome="decoded")
        self.meter.add(metrics.IMAGES, len(files) - len(read), outcome="repeated")

        async def encode(pixels: Array) -> list[Array]:
            return await self.infer(protocol.VISION, {protocol.PIXEL_VALUES: pixels[None]}, outputs)

        found = await asyncio.gather(*(encode(pixels) for pixels, _ in read))
        rows = [different[file] for file in files]
        if draft := _draft.get():
            draft.show(rows)
        joined = [np.concatenate([each[i] for each in found])[rows] for i in range(len(outputs))]
        return joined, [read[row][1] for row in rows]

    async def infer(self, graph: str, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Call a graph of this version; the answers are in the order of ``outputs``.

        Raises:
            GraphError: If it fails.
            StoppingError: If the server stops.
        """
        name = protocol.model_name(self.settings.task, graph)
        call = pb_utils.InferenceRequest(
            model_name=name,
            model_version=self.version,
            requested_output_names=list(outputs),
            inputs=[pb_utils.Tensor(key, np.ascontiguousarray(array)) for key, array in feeds.items()],
            trace=_request.get().trace(),
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = await call.async_exec()
        if response.has_error():
            message = response.error().message()
            raise (StoppingError if _STOPPING in message else GraphError)(f"{name}: {message}")
        return [pb_utils.get_output_tensor_by_name(response, output).as_numpy() for output in outputs]


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis; -inf is 0."""
    shifted: Array = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def padded(rows: Iterable[Sequence[Any]], fill: Any, dtype: Any) -> Array:
    """Rows of differing lengths as one array, filled up at their ends."""
    lines = [list(row) for row in rows]
    length = max((len(row) for row in lines), default=0)
    return np.array([row + [fill] * (length - len(row)) for row in lines], dtype=dtype).reshape(len(lines), length)
