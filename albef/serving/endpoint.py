"""Base class of the endpoints: request parsing, graph inference and error responses.

It runs in Triton's Python backend, which provides ``triton_python_backend_utils``, and is copied next to every
``model.py``. Graphs are other models of the repository. An endpoint calls them in its own version, so that a release
never mixes two models.

B = rows of a request, L = text tokens, H = pixels per side.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import triton_python_backend_utils as pb_utils

from albef.data.images import ImageError, normalize
from albef.data.text import clean
from albef.data.tokenizer import Encoder, load
from albef.io import file_hash
from albef.serving import metrics, protocol
from albef.serving.byte_inputs import limit_values
from albef.serving.call import Call, CanceledError, current
from albef.serving.decoding import BusyError, DecodePool
from albef.serving.endpoint_values import Array, QueryError, constant, values_of
from albef.serving.image_guard import Header, read_headers
from albef.serving.metrics import Log, Meter
from albef.serving.sample import Sampler
from albef.tasks.spec import EndpointSpec

_STOPPING = "Server not ready"
"""Part of the server's error for graph requests during shutdown."""

MAX_REQUESTS = 32
"""Most requests that an endpoint answers at a time; further ones stay in the queue of the server."""


class GraphError(RuntimeError):
    """A graph behind the endpoint failed."""


class StoppingError(RuntimeError):
    """The server is shutting down and rejects graph requests."""


class BrokenError(RuntimeError):
    """The process of a graph has died; the watchdog loads the graph again."""


def failure(error: object, code: int) -> Any:
    """Return an error response.

    Always a new object: sharing one between responses crashes the server.
    """
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))


class Endpoint(ABC):
    """Base class of endpoints; subclasses implement `answer`.

    Attributes:
        task: Specification of the endpoint.
    """

    task: ClassVar[EndpointSpec]

    def initialize(self, args: dict[str, str]) -> None:
        """Load settings and tokenizer and check that they match the graphs."""
        self.name, self.version = args["model_name"], int(args["model_version"])
        self.folder = Path(args["model_repository"]) / args["model_version"]
        self.settings: Any = self.task.settings(**json.loads((self.folder / protocol.SETTINGS_FILE).read_text()))
        self.encoder = Encoder(load(self.folder / protocol.TOKENIZER_FOLDER))
        self.log = Log(self.name, self.version)
        self._check()
        self.meter = Meter(pb_utils, self.name, self.version)
        # Requests to a release candidate (under another name, see `albef.serving.release`) are not sampled.
        assert self.task.endpoint is not None
        environment: dict[str, str] | None = None if self.name == self.task.endpoint.name else {}
        self.sampler = Sampler(self.log, self.name, self.version, environment)
        limits = self.settings
        limit_values(pb_utils, max(limits.max_candidates, json.loads(args["model_config"])["max_batch_size"]))
        self.pool = DecodePool(limits.decode_workers, limits.decode_seconds, limits.image_size, limits.max_image_pixels)
        self.tracing = b"--trace-config" in Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
        sys.setswitchinterval(0.001)  # of other threads, such as those that tokenize candidates
        self.slots, self.active = threading.Semaphore(MAX_REQUESTS), 0
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(futures.ThreadPoolExecutor(MAX_REQUESTS))  # a graph request takes a thread
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def finalize(self) -> None:
        """Stop decoding; the server has no more requests."""
        self.pool.close()

    def _check(self) -> None:
        """Check that graphs and tokenizer are those named by the settings.

        Raises:
            ValueError: If a graph is missing, or graph or tokenizer belong to another model.
        """
        settings = self.settings
        tokenizer = self.folder / protocol.TOKENIZER_FOLDER / "tokenizer.json"
        if file_hash(tokenizer) != settings.tokenizer_hash:
            raise ValueError(f"{tokenizer}: not the tokenizer of the model of {self.name}; write the repository again")
        assert self.task.graphs is not None
        for spec in self.task.graphs(protocol.GraphSizes(1, 1, 1, 1)).values():
            folder = self.folder.parents[1] / spec.name
            if not folder.is_dir():  # Triton fetches a repository in object storage model by model
                self.log("warning", "unchecked", message=f"no folder of {spec.name} next to this model")
                continue
            # Of the graph, which this process does not open.
            origin = folder / str(self.version) / protocol.ORIGIN_FILE
            model_hash = json.loads(origin.read_text(encoding="utf-8"))[protocol.HASH_KEY] if origin.is_file() else None
            if model_hash != settings.model_hash:
                raise ValueError(
                    f"{spec.name} version {self.version} has model hash {str(model_hash)[:12]}, "
                    f"but {self.name} expects {settings.model_hash[:12]}; write the repository again"
                )

    def execute(self, requests: Sequence[Any]) -> None:
        """Start to answer requests.

        The server passes on further requests while these are answered, so that none waits for a slow one.
        """
        traced = []
        for request in requests:
            trace = request.trace() if self.tracing and request.trace().get_context() else None
            self.slots.acquire()
            answer = asyncio.run_coroutine_threadsafe(self._serve(request, trace), self.loop)
            if trace is not None:
                traced.append(answer)
        futures.wait(traced)  # the server frees their traces when this returns, and crashes if they are used

    async def _serve(self, request: Any, trace: Any) -> None:
        """Answer a request; its slot becomes free whatever happens."""
        self.active += 1
        probing = request.request_id() == protocol.PROBE_ID
        call = Call(request, None if probing else self.sampler.draft(), probing, trace)
        current.set(call)
        try:
            response = await self.respond(call)
            self.active -= 1
            self.meter.flush(busy=self.active > 0)
            call.answered = True
            request.get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception:
            self.log("error", "unanswered", trace=traceback.format_exc())
        finally:
            self.slots.release()

    async def respond(self, call: Call) -> Any:
        """Return the response to one request, or its error response."""
        request, draft = call.request, call.draft
        start = time.perf_counter()
        rows = int(request.inputs()[0].shape()[0])
        self.count(metrics.REQUESTS)
        self.count(metrics.ROWS, rows)
        try:
            call.check()
            outputs = await self.answer(request)
        except (QueryError, ImageError) as error:
            reason = getattr(error, "field", protocol.IMAGE)
            self.count(metrics.REFUSALS, reason=reason)
            self._log_request("warning", "refused", request, rows, start, reason=reason, message=str(error))
            return failure(error, pb_utils.TritonError.INVALID_ARG)
        except CanceledError:
            self.count(metrics.CANCELED)
            self._log_request("info", "canceled", request, rows, start)
            return failure("the request was canceled", pb_utils.TritonError.CANCELLED)
        except (StoppingError, BrokenError, BusyError) as error:
            event = {StoppingError: "stopping", BrokenError: "broken"}.get(type(error), "busy")
            self._log_request("warning", event, request, rows, start)
            return failure(error, pb_utils.TritonError.UNAVAILABLE)
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            self.count(metrics.FAILURES)
            self._log_request("error", "failed", request, rows, start, message=message, trace=traceback.format_exc())
            return failure(message, pb_utils.TritonError.INTERNAL)
        if draft is not None:
            self.sampler.write(draft, rows, outputs)
        if self.log.requests:
            self._log_request("info", "answered", request, rows, start)
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor(name, np.ascontiguousarray(outputs[name])) for name in outputs]
        )

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Add to a counter, unless the request is one of the watchdog."""
        if not current.get().probing:
            self.meter.add(name, amount, **labels)

    def _log_request(self, level: str, event: str, request: Any, rows: int, start: float, **fields: Any) -> None:
        if current.get().probing and level != "error":
            return
        elapsed = round(1000 * (time.perf_counter() - start), 1)
        self.log(level, event, request=request.request_id(), rows=rows, milliseconds=elapsed, **fields)

    @abstractmethod
    async def answer(self, request: Any) -> dict[str, Array]:
        """Return the outputs of a request by name.

        Raises:
            QueryError, ImageError: If the request is invalid.
            GraphError: If a graph fails.
        """

    def read_k(self, request: Any, default: int) -> int:
        """Return ``k`` of a request."""
        k = int(constant(request, protocol.K, default))
        if not 1 <= k <= self.settings.max_k:
            name = protocol.K
            raise QueryError(f"'{name}' is {k}, expected 1 to {self.settings.max_k}", name)
        return k

    def text(self, value: bytes, name: str = protocol.TEXT) -> str:
        """Decode a text of a request."""
        if len(value) > protocol.MAX_TEXT_BYTES:
            raise QueryError(f"'{name}' has {len(value)} bytes, expected at most {protocol.MAX_TEXT_BYTES}", name)
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise QueryError(f"'{name}' is not UTF-8 ({error})", name) from error
        if not any(map(str.isprintable, clean(text).replace(" ", ""))):  # the tokenizer drops unprintable characters
            raise QueryError(f"'{name}' is empty or has only punctuation", name)
        return text

    def texts(self, request: Any) -> list[str]:
        """Return the texts of a request, one per row."""
        values = values_of(request, protocol.TEXT)
        texts = [] if values is None else [self.text(value) for value in values.reshape(-1)]
        if draft := current.get().draft:
            draft.set_texts(texts, self.encoder)
        return texts

    async def pixels(self, file: bytes, name: str, header: Header) -> tuple[Array, tuple[int, int]]:
        """Decode an image of a request.

        Args:
            name: Name of its input.

        Returns:
            Pixels ``(3, H, H)``, and width and height of the image.

        Raises:
            ImageError: If it cannot be decoded.
        """
        call = current.get()
        call.check()
        stats = call.draft is not None
        decoded = await self.pool.decode(file, header, f"'{name}'", stats=stats, check=call.check)
        if call.draft is not None and decoded.stats is not None:
            call.draft.add_image(decoded.stats)
        return normalize(decoded.pixels), decoded.size

    def tokenize(self, texts: Sequence[str]) -> dict[str, Array]:
        """Tokenize texts.

        Returns:
            Token ids and mask ``(B, L)``, where L is a multiple of `LENGTH_STEP` or the maximum length.
        """
        limit, step = self.settings.max_tokens, protocol.LENGTH_STEP
        ids, mask = self.encoder.encode_batch(texts, max_tokens=limit, max_words=self.settings.max_words)
        length = ids.shape[1]
        extra = max(min(-(-length // step) * step, limit) - length, 0)
        ids = np.pad(ids, ((0, 0), (0, extra)), constant_values=self.encoder.pad)
        mask = np.pad(mask, ((0, 0), (0, extra)))
        return {protocol.INPUT_IDS: ids, protocol.ATTENTION_MASK: mask}

    async def run_vision(
        self, request: Any, outputs: Sequence[str], names: Sequence[str] = (protocol.IMAGE,)
    ) -> tuple[list[Array], list[tuple[int, int]]]:
        """Encode the images of a request.

        An image that several rows share is decoded and encoded once. Each image is a graph request of its own: the
        server batches them and answers repeated ones from its response cache.

        Args:
            names: Inputs with images.

        Returns:
            The ``outputs`` of the graph, one row per row of the request, and width and height of each image. With
            several inputs, the rows of each follow those of the one before it.
        """
        files: list[bytes] = []
        inputs: dict[bytes, str] = {}  # of each distinct image
        for name in names:
            values = values_of(request, name)
            if values is None:
                raise QueryError(f"'{name}' is missing", name)
            for file in map(bytes, values.reshape(-1)):
                files.append(file)
                inputs.setdefault(file, name)
        distinct = {file: number for number, file in enumerate(inputs)}
        headers = read_headers(inputs, self.settings)
        # Sequentially, so that a request takes one worker at a time.
        decoded = [
            await self.pixels(file, name, header) for (file, name), header in zip(inputs.items(), headers, strict=True)
        ]
        self.count(metrics.IMAGES, len(decoded), outcome="decoded")
        self.count(metrics.IMAGES, len(files) - len(decoded), outcome="repeated")

        async def encode(pixels: Array) -> list[Array]:
            return await self.infer(protocol.VISION, {protocol.PIXEL_VALUES: pixels[None]}, outputs)

        encoded = await asyncio.gather(*(encode(pixels) for pixels, _ in decoded))
        rows = [distinct[file] for file in files]
        if draft := current.get().draft:
            draft.set_image_rows(rows)
        joined = [np.concatenate([arrays[i] for arrays in encoded])[rows] for i in range(len(outputs))]
        return joined, [decoded[row][1] for row in rows]

    async def infer(self, graph: str, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Run a graph of this version and return its ``outputs`` in order.

        Raises:
            GraphError: If the graph fails.
            StoppingError: If the server is shutting down.
            CanceledError: If the caller does not wait any more.
        """
        call = current.get()
        name = protocol.model_name(self.settings.task, graph)
        async with call.graph_requests:
            call.check()
            request = pb_utils.InferenceRequest(
                model_name=name,
                model_version=self.version,
                requested_output_names=list(outputs),
                inputs=[pb_utils.Tensor(key, np.ascontiguousarray(array)) for key, array in feeds.items()],
                **({"trace": call.trace} if call.trace is not None else {}),
                preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
            )
            response = await request.async_exec()
        if response.has_error():
            message = response.error().message()
            broken = any(text in message for text in protocol.BROKEN)
            raise (StoppingError if _STOPPING in message else BrokenError if broken else GraphError)(
                f"{name}: {message}"
            )
        tensors = [pb_utils.get_output_tensor_by_name(response, output) for output in outputs]
        if any(tensor is None for tensor in tensors):  # it died while it answered
            raise BrokenError(f"{name}: gave no answer")
        return [tensor.as_numpy() for tensor in tensors]
