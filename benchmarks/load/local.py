"""The baseline: an endpoint of a model repository in this process, its graphs called directly.

The code that answers is the endpoint's own ``model.py``; Triton's module for it is replaced by containers that copy
nothing, and its call of a graph by one of an ONNX Runtime session with the same threads. As in the server, no more runs
of a graph are under way than it has instances.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from albef.serving import pbtxt, protocol
from albef.serving.requests import Call, InvalidRequestError, ServingError
from albef.serving.session import open_session

MODULE = "triton_python_backend_utils"


class Tensor:
    """A named array."""

    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> Any:
        return self.array

    def shape(self) -> Any:
        return self.array.shape


class Request(dict[str, Any]):
    """Arrays by name."""

    def inputs(self) -> list[Tensor]:
        return [Tensor(name, array) for name, array in self.items()]

    def request_id(self) -> str:
        return ""


class MetricFamily:
    """Counts for nobody."""

    COUNTER = 0

    def __init__(self, *_: object) -> None:
        pass

    def Metric(self, labels: dict[str, str]) -> MetricFamily:  # noqa: N802
        return self

    def increment(self, amount: int) -> None:
        pass


class TritonError:
    """What was wrong."""

    INTERNAL, INVALID_ARG, UNAVAILABLE = 1, 3, 4

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self.message, self.code = message, code


class InferenceResponse:
    """Outputs or an error."""

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self.outputs, self.error = output_tensors, error


class Logger:
    """Complaints go to stderr."""

    @staticmethod
    def log_error(text: str) -> None:
        print(text, file=sys.stderr)

    log_warn = log_error


def input_of(request: Request, name: str) -> Tensor | None:
    """An input of a request."""
    return Tensor(name, request[name]) if name in request else None


def backend_utils() -> ModuleType:
    """The part of Triton's module that endpoints use, but for calls of graphs."""
    module = ModuleType(MODULE)
    parts = {part.__name__: part for part in (Tensor, TritonError, InferenceResponse, Logger, MetricFamily)}
    module.__dict__.update(parts, get_input_tensor_by_name=input_of)
    return module


@contextmanager
def _as_it_was() -> Iterator[None]:
    """An endpoint puts its own folder before all others; here they are of the same checkout, or should be."""
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path


def load_endpoint(file: Path) -> type[Any]:
    """The class in an endpoint's ``model.py``; it gets this checkout's `albef`."""
    sys.modules.setdefault(MODULE, backend_utils())
    spec = importlib.util.spec_from_file_location(f"endpoint_{file.parents[1].name}", file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(file)
    module = importlib.util.module_from_spec(spec)
    with _as_it_was():
        spec.loader.exec_module(module)
    found: type[Any] = module.TritonPythonModel
    return found


class Turns:
    """Room for ``count`` at a time, first come, first served: a semaphore of the standard library lets some starve."""

    def __init__(self, count: int) -> None:
        self.free = count
        self._lock, self._waiting = threading.Lock(), deque[threading.Lock]()

    def __enter__(self) -> None:
        with self._lock:
            if self.free:
                self.free -= 1
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        turn.acquire()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self.free += 1


class Graph:
    """An ONNX graph of a repository, opened with the threads and for as many runs at a time as it is configured.

    Attributes:
        seconds: That all runs took together.
        record: The inputs of each run go in here, where there is a list.
    """

    def __init__(self, folder: Path, version: int, file: Path | None = None) -> None:
        config = pbtxt.parse(folder / "config.pbtxt")
        threads = int(config.parameters["intra_op_thread_count"].string_value)
        self.session = open_session(file or folder / str(version) / "model.onnx", threads)
        self.room = Turns(max(group.count for group in config.instance_group))
        self.seconds = 0.0
        self.record: list[dict[str, Any]] | None = None

    def run(self, feeds: dict[str, Any], outputs: Sequence[str]) -> list[Any]:
        if self.record is not None:
            self.record.append(feeds)
        with self.room:
            began = time.perf_counter()
            found: list[Any] = self.session.run(list(outputs), feeds)
            self.seconds += time.perf_counter() - began
        return found


class Local:
    """An endpoint in this process; for use by several threads.

    Args:
        repository: As `albef repository` writes it.
        files: Other ONNX files for some graphs, by the graph's name, such as ``vision``.
    """

    def __init__(self, repository: Path, task: str, version: int = 1, files: dict[str, Path] | None = None) -> None:
        folder, files = repository.resolve(), files or {}
        base = load_endpoint(folder / task / str(version) / "model.py")
        names = protocol.GRAPHS[task](protocol.GraphSizes(1, 1, 1, 1))
        self.graphs = {
            name: Graph(folder / protocol.model_name(task, name), version, files.get(name)) for name in names
        }
        graphs = self.graphs

        class InProcess(base):
            async def infer(self, graph: str, feeds: dict[str, Any], outputs: Sequence[str]) -> list[Any]:
                return graphs[graph].run({k: np.ascontiguousarray(v) for k, v in feeds.items()}, outputs)

        self.endpoint = InProcess()
        self.endpoint.initialize(
            {"model_name": task, "model_version": str(version), "model_repository": str(folder / task)}
        )
        self._loops = threading.local()

    def ask(self, call: Call[Any]) -> list[Any]:
        """As `albef.serving.client.Client.ask`.

        Raises:
            InvalidRequestError: If the endpoint refuses the request.
            ServingError: If it fails.
        """
        runner = getattr(self._loops, "runner", None)
        if runner is None:
            runner = self._loops.runner = asyncio.Runner()
        (response,) = runner.run(self.endpoint.execute([Request(call.arrays)]))
        if response.error is not None:
            refused = response.error.code == TritonError.INVALID_ARG
            raise (InvalidRequestError if refused else ServingError)(response.error.message)
        return call.read({tensor.name: tensor.as_numpy() for tensor in response.outputs})
