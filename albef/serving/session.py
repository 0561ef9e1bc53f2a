"""ONNX Runtime sessions of exported graphs, without torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.serving.protocol import ANY, ModelSpec

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Provider = str | tuple[str, dict[str, Any]]
"""Execution provider of ONNX Runtime, possibly with options."""
_TYPES = {"FP32": "tensor(float)", "INT64": "tensor(int64)"}


class GraphError(ValueError):
    """A graph cannot be loaded, or its signature differs from the protocol."""


CPU = ("CPUExecutionProvider",)


def open_session(path: Path, threads: int = 1, providers: Sequence[Provider] = CPU) -> InferenceSession:
    """Open a graph, by default on the CPU.

    Raises:
        GraphError: If ONNX Runtime cannot load it, or not with the first provider.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = ort.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:
        raise GraphError(f"{path}: ONNX Runtime cannot load the graph: {error}") from error
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != wanted:  # it falls back to others with a warning
        raise GraphError(
            f"{path}: ONNX Runtime cannot start {wanted}, expected the packages and the device that it needs"
        )
    return session


def metadata(session: InferenceSession) -> dict[str, str]:
    """Return the metadata of a graph."""
    entries: dict[str, str] = session.get_modelmeta().custom_metadata_map
    return entries


def check_signature(session: InferenceSession, spec: ModelSpec) -> None:
    """Compare names, types and shapes of a graph with the protocol.

    Raises:
        GraphError: If one differs; the message names the tensor.
    """
    for kind, actual, expected in (
        ("inputs", session.get_inputs(), spec.inputs),
        ("outputs", session.get_outputs(), spec.outputs),
    ):
        names = [tensor.name for tensor in actual], [tensor.name for tensor in expected]
        if names[0] != names[1]:
            raise GraphError(f"{spec.name}: {kind} {names[0]}, expected {names[1]}")
        for tensor, tensor_spec in zip(actual, expected, strict=True):
            shape = [size if isinstance(size, int) else ANY for size in tensor.shape]
            expected_shape = [ANY, *tensor_spec.dims]
            if shape != expected_shape or tensor.type != _TYPES[tensor_spec.dtype]:
                raise GraphError(
                    f"{spec.name}: {tensor.name} is {tensor.type} {shape}, "
                    f"expected {_TYPES[tensor_spec.dtype]} {expected_shape}"
                )
