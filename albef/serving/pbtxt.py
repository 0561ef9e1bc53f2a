"""Triton model configuration (``config.pbtxt``), generated from the serving protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albef.serving.protocol import ANY, ModelSpec, TensorSpec

WARMUP_LENGTH = 8
"""Size of free dimensions during warm-up."""


@dataclass(frozen=True)
class Deployment:
    """Execution settings of a model in Triton.

    Args:
        backend: ``onnxruntime`` (a graph) or ``python`` (an endpoint).
        max_batch_size: Maximum rows of a batch.
        queue_delay_us: Microseconds a request may wait for others to share its batch.
        instances: Instances of the model.
        threads: Threads of one ONNX Runtime instance.
        cache: Serve repeated requests from the server's response cache, if it has one.
        max_queue: Maximum number of waiting requests; 0 for no limit.
        tensorrt: Parameters of TensorRT on a GPU; see `albef.export.tensorrt`.
        versions: Number of newest versions that stay loaded; 2 allows a rollback.
    """

    backend: str
    max_batch_size: int
    queue_delay_us: int
    instances: int
    threads: int = 1
    cache: bool = False
    max_queue: int = 0
    tensorrt: Mapping[str, str] = field(default_factory=dict)
    versions: int = 2


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    dtype = "STRING" if spec.dtype == "BYTES" else spec.dtype
    return {"name": spec.name, "data_type": f"TYPE_{dtype}", "dims": list(spec.dims)}


def _zeros(spec: TensorSpec) -> dict[str, Any]:
    dims = [WARMUP_LENGTH if size == ANY else size for size in spec.dims]
    return {"data_type": f"TYPE_{spec.dtype}", "dims": dims, "zero_data": True}


def render(spec: ModelSpec, run: Deployment) -> str:
    """Return the text of a model's ``config.pbtxt``.

    A graph has no instance kind, so that the same file uses a GPU where there is one. An endpoint is Python code and
    stays on the CPU.

    Raises:
        ValueError: If Triton does not know the type of a tensor.
    """
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    graph = run.backend == "onnxruntime"
    config: dict[str, Any] = {
        "name": spec.name,
        "backend": run.backend,
        "max_batch_size": run.max_batch_size,
        "input": [{**_tensor(tensor), "optional": tensor.optional} for tensor in spec.inputs],
        "output": [_tensor(tensor) for tensor in spec.outputs],
        "dynamic_batching": {"max_queue_delay_microseconds": run.queue_delay_us},
        "response_cache": {"enable": run.cache},
        "instance_group": [{"count": run.instances} if graph else {"count": run.instances, "kind": "KIND_CPU"}],
        "version_policy": {"latest": {"num_versions": run.versions}},
    }
    if graph:
        config["platform"] = "onnxruntime_onnx"
        config["parameters"] = {"intra_op_thread_count": {"string_value": str(run.threads)}}
        if run.tensorrt:
            accelerator = {"name": "tensorrt", "parameters": dict(run.tensorrt)}
            config["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}
        warmup = {"name": "first", "batch_size": 1, "inputs": {tensor.name: _zeros(tensor) for tensor in spec.inputs}}
        config["model_warmup"] = [warmup]
    else:
        # A request's parameter "timeout" counts: nobody waits for the answer any more. Graphs have no policy, because
        # with one Triton 2.51 leaves a request whose shape differs from that of the one before it alone for 500 ms.
        policy = {"allow_timeout_override": True, "max_queue_size": run.max_queue}
        config["dynamic_batching"]["default_queue_policy"] = policy
    try:
        return str(text_format.MessageToString(json_format.ParseDict(config, model_config_pb2.ModelConfig())))
    except json_format.ParseError as error:
        raise ValueError(f"{spec.name}: {error}") from error


def parse(path: Path) -> Any:
    """Parse a ``config.pbtxt``.

    Raises:
        ValueError: If the file is not a model configuration; the message names the file.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(f"{path}: not a Triton model configuration: {error}") from error
