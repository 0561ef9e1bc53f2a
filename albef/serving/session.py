"""ONNX Runtime sessions of exported graphs, and their signatures against the contract. Needs no torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from albef.serving.protocol import ANY, ModelSpec

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_TYPES = {"FP32": "tensor(float)", "INT64": "tensor(int64)"}


class GraphError(ValueError):
    """A graph cannot be loaded or has another signature than the contract says."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_session(path: Path, threads: int = 1) -> InferenceSession:
    """Open a graph on the CPU.

    Raises:
        GraphError: If ONNX Runtime cannot load it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise GraphError(f"{path}: ONNX Runtime cannot load the graph: {error}") from error


def check_signature(session: InferenceSession, spec: ModelSpec) -> None:
    """Compare names, types and shapes of a graph with the contract.

    Raises:
        GraphError: If one differs; the message names the tensor.
    """
    for kind, have, want in (
        ("inputs", session.get_inputs(), spec.inputs),
        ("outputs", session.get_outputs(), spec.outputs),
    ):
        if [tensor.name for tensor in have] != [tensor.name for tensor in want]:
            names = [tensor.name for tensor in have], [tensor.name for tensor in want]
            raise GraphError(f"{spec.name}: {kind} {names[0]}, the contract says {names[1]}")
        for tensor, stated in zip(have, want, strict=True):
            shape = [size if isinstance(size, int) else ANY for size in tensor.shape]
            expected = [ANY, *stated.dims]
            if shape != expected or tensor.type != _TYPES[stated.dtype]:
                raise GraphError(
                    f"{spec.name}: {tensor.name} is {tensor.type} {shape}, "
                    f"the contract says {_TYPES[stated.dtype]} {expected}"
                )
