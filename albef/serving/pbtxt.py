"""Triton model configuration (``config.pbtxt``), generated from the serving protocol."""

from __future__ import annotations

from dataclasses import dataclass
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
        versions: Number of newest versions that stay loaded; 2 allows a rollback.
    """

    backend: str
    max_batch_size: int
    queue_delay_us: int
    instances: int
    threads: int = 1
    cache: bool = False
    versions: int = 2


def _message() -> Any:
    from tritonclient.grpc import model_config_pb2

    return model_config_pb2.ModelConfig()


def _fill_tensor(tensor: Any, spec: TensorSpec) -> None:
    from tritonclient.grpc import model_config_pb2

    tensor.name = spec.name
    tensor.data_type = model_config_pb2.DataType.Value("TYPE_STRING" if spec.dtype == "BYTES" else f"TYPE_{spec.dtype}")
    tensor.dims.extend(spec.dims)


def render(spec: ModelSpec, run: Deployment) -> str:
    """Return the text of a model's ``config.pbtxt``.

    A graph has no instance kind, so that the same file uses a GPU where there is one. An endpoint is Python code and
    stays on the CPU.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    graph = run.backend == "onnxruntime"
    config = _message()
    config.name = spec.name
    if graph:
        config.platform = "onnxruntime_onnx"
    config.backend = run.backend
    config.max_batch_size = run.max_batch_size
    for tensor in spec.inputs:
        described = config.input.add()
        _fill_tensor(described, tensor)
        described.optional = tensor.optional
    for tensor in spec.outputs:
        _fill_tensor(config.output.add(), tensor)
    config.dynamic_batching.max_queue_delay_microseconds = run.queue_delay_us
    config.response_cache.enable = run.cache
    group = config.instance_group.add(count=run.instances)
    config.version_policy.latest.num_versions = run.versions
    if graph:
        config.parameters["intra_op_thread_count"].string_value = str(run.threads)
        _fill_warmup(config.model_warmup.add(name="first", batch_size=1), spec)
    else:
        group.kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
    return str(text_format.MessageToString(config))


def _fill_warmup(warmup: Any, spec: ModelSpec) -> None:
    from tritonclient.grpc import model_config_pb2

    for tensor in spec.inputs:
        entry = warmup.inputs[tensor.name]
        entry.data_type = model_config_pb2.DataType.Value(f"TYPE_{tensor.dtype}")
        entry.dims.extend(WARMUP_LENGTH if size == ANY else size for size in tensor.dims)
        entry.zero_data = True


def parse(path: Path) -> Any:
    """Parse a ``config.pbtxt``.

    Raises:
        ValueError: If the file is not a model configuration; the message names the file.
    """
    from google.protobuf import text_format

    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), _message())
    except text_format.ParseError as error:
        raise ValueError(f"{path}: not a Triton model configuration: {error}") from error
