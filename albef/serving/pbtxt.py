"""``config.pbtxt`` of the model repository, written from the contract."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef.serving.protocol import ANY, ModelSpec, TensorSpec

WARMUP_LENGTH = 8
"""Size that stands for a free dimension during warm-up."""


@dataclass(frozen=True)
class Deployment:
    """How Triton runs a model.

    Args:
        backend: ``onnxruntime`` (a graph) or ``python`` (an endpoint).
        max_batch_size: Rows of a batch.
        queue_delay_us: How long a request may wait for company.
        instances: Copies of the model.
        threads: Of one ONNX Runtime instance.
        cache: Whether answers to requests seen before come from the server's response cache, where it has one.
        versions: How many of the newest versions stay loaded: 2 lets a release be rolled back.
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


def _describe(tensor: Any, spec: TensorSpec) -> None:
    from tritonclient.grpc import model_config_pb2

    tensor.name = spec.name
    tensor.data_type = model_config_pb2.DataType.Value("TYPE_STRING" if spec.dtype == "BYTES" else f"TYPE_{spec.dtype}")
    tensor.dims.extend(spec.dims)


def render(spec: ModelSpec, run: Deployment) -> str:
    """The text of a model's ``config.pbtxt``.

    A graph gets no instance kind, so that the same file takes a GPU where there is one; an endpoint is plain Python
    and stays on the CPU.
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
        _describe(described, tensor)
        described.optional = tensor.optional
    for tensor in spec.outputs:
        _describe(config.output.add(), tensor)
    config.dynamic_batching.max_queue_delay_microseconds = run.queue_delay_us
    config.response_cache.enable = run.cache
    group = config.instance_group.add(count=run.instances)
    config.version_policy.latest.num_versions = run.versions
    if graph:
        config.parameters["intra_op_thread_count"].string_value = str(run.threads)
        _warm_up(config.model_warmup.add(name="first", batch_size=1), spec)
    else:
        group.kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
    return str(text_format.MessageToString(config))


def _warm_up(warm: Any, spec: ModelSpec) -> None:
    from tritonclient.grpc import model_config_pb2

    for tensor in spec.inputs:
        entry = warm.inputs[tensor.name]
        entry.data_type = model_config_pb2.DataType.Value(f"TYPE_{tensor.dtype}")
        entry.dims.extend(WARMUP_LENGTH if size == ANY else size for size in tensor.dims)
        entry.zero_data = True


def parse(path: Path) -> Any:
    """Read a ``config.pbtxt``.

    Raises:
        ValueError: If it is not a model configuration; the message names the file.
    """
    from google.protobuf import text_format

    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), _message())
    except text_format.ParseError as error:
        raise ValueError(f"{path}: not a Triton model configuration: {error}") from error
