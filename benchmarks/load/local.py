"""Baseline of the serving benchmarks: an endpoint in this process.

The baseline runs the endpoint's own ``model.py``. Triton's module is replaced by containers that do not copy, and calls
of graphs by ONNX Runtime sessions with the same number of threads. As in the server, the number of concurrent runs of a
graph is limited to its instances.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np

from albef.serving import pbtxt, requests
from albef.serving.requests import InvalidRequestError, ServingError
from albef.serving.session import open_session
from albef.tasks import registry

MODULE = "triton_python_backend_utils"


class Tensor:
    """Named array; stands in for ``pb_utils.Tensor``."""

    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> Any:
        return self.array

    def shape(self) -> Any:
        return self.array.shape


class Request(dict[str, Any]):
    """Inputs by name; stands in for ``pb_utils.InferenceRequest`` and its response sender."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        super().__init__(arrays)
        self.response: Future[InferenceResponse] = Future()

    def inputs(self) -> list[Tensor]:
        return [Tensor(name, array) for name, array in self.items()]

    def request_id(self) -> str:
        return ""

    def is_cancelled(self) -> bool:
        return False

    def get_response_sender(self) -> Request:
        return self

    def send(self, response: InferenceResponse, flags: int) -> None:
        self.response.set_result(response)


class MetricFamily:
    """Metric family without effect."""

    COUNTER = 0

    def __init__(self, *_: object) -> None:
        pass

    def Metric(self, labels: dict[str, str]) -> MetricFamily:  # noqa: N802
        return self

    def increment(self, amount: int) -> None:
        pass


class TritonError:
    """Error message and code."""

    INTERNAL, INVALID_ARG, UNAVAILABLE, CANCELLED = 1, 3, 4, 5

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self.message, self.code = message, code


class InferenceResponse:
    """Output tensors, or an error."""

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self.outputs, self.error = output_tensors, error


def input_of(request: Request, name: str) -> Tensor | None:
    """Return an input of a request, or None."""
    return Tensor(name, request[name]) if name in request else None


def backend_utils() -> ModuleType:
    """Return the parts of Triton's module that endpoints use, except graph calls."""
    module = ModuleType(MODULE)
    classes = {each.__name__: each for each in (Tensor, TritonError, InferenceResponse, MetricFamily)}
    module.__dict__.update(classes, get_input_tensor_by_name=input_of, TRITONSERVER_RESPONSE_COMPLETE_FINAL=1)
    return module


def load_endpoint(file: Path) -> type[Any]:
    """Return the class in an endpoint's ``model.py``."""
    sys.modules.setdefault(MODULE, backend_utils())
    spec = importlib.util.spec_from_file_location(f"endpoint_{file.parents[1].name}", file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(file)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", list(sys.path)):  # to which an endpoint adds its own copy of `albef`
        spec.loader.exec_module(module)
    endpoint: type[Any] = module.TritonPythonModel
    return endpoint


class FairSemaphore:
    """Semaphore that serves threads in order of arrival; `threading.Semaphore` lets some starve."""

    def __init__(self, count: int) -> None:
        self.free = count
        self._lock, self._waiting = threading.Lock(), deque[threading.Lock]()

    def __enter__(self) -> None:
        with self._lock:
            if self.free:
                self.free -= 1
                return
            ticket = threading.Lock()
            ticket.acquire()
            self._waiting.append(ticket)
        ticket.acquire()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self.free += 1


class Graph:
    """ONNX graph of a repository with its configured threads and instances.

    Attributes:
        seconds: Total time of all runs.
        record: List that receives the inputs of each run, or None.
    """

    def __init__(self, folder: Path, file: Path | None = None) -> None:
        config = pbtxt.parse(folder / "config.pbtxt")
        threads = int(config.parameters["intra_op_thread_count"].string_value)
        self.session = open_session(file or folder / "1" / "model.onnx", threads)
        self.slots = FairSemaphore(max(group.count for group in config.instance_group))
        self.seconds = 0.0
        self.record: list[dict[str, Any]] | None = None

    def run(self, feeds: dict[str, Any], outputs: Sequence[str]) -> list[Any]:
        if self.record is not None:
            self.record.append(feeds)
        with self.slots:
            start = time.perf_counter()
            results: list[Any] = self.session.run(list(outputs), feeds)
            self.seconds += time.perf_counter() - start
        return results


class Local:
    """Endpoint in this process; thread-safe.

    Args:
        repository: Model repository.
        name: Name of the endpoint.
    """

    def __init__(self, repository: Path, name: str) -> None:
        folder = repository.resolve()
        base = load_endpoint(folder / name / "1" / "model.py")
        self.graphs = {graph: Graph(folder / model) for graph, model in registry.graph_models(name).items()}
        graphs = self.graphs

        class InProcess(base):
            async def infer(self, graph: str, feeds: dict[str, Any], outputs: Sequence[str]) -> list[Any]:
                contiguous = {key: np.ascontiguousarray(array) for key, array in feeds.items()}
                return await asyncio.to_thread(graphs[graph].run, contiguous, outputs)

        self.endpoint = InProcess()
        config = pbtxt.parse(folder / name / "config.pbtxt")
        self.endpoint.initialize(
            {
                "model_name": name,
                "model_version": "1",
                "model_repository": str(folder / name),
                "model_config": json.dumps({"max_batch_size": config.max_batch_size}),
            }
        )
        weakref.finalize(self, self.endpoint.finalize)

    def ask(self, request: requests.Request[Any]) -> list[Any]:
        """Answer a request; see `albef.serving.client.Client.ask`.

        Raises:
            InvalidRequestError: If the endpoint refuses the request.
            ServingError: If the endpoint fails.
        """
        asked = Request(request.arrays)
        self.endpoint.execute([asked])
        response = asked.response.result()
        if response.error is not None:
            refused = response.error.code == TritonError.INVALID_ARG
            raise (InvalidRequestError if refused else ServingError)(response.error.message)
        return request.read({tensor.name: tensor.as_numpy() for tensor in response.outputs})
