"""Checks of inference requests before they reach the server.

Triton 2.51 crashes on some malformed requests, and lets others read shared memory. A request is forwarded only if each
of its fields is one that the endpoint's specification expects.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from albef.serving.protocol import ANY, PROBE_ID, ModelSpec, TensorSpec
from albef.serving.requests import InvalidRequestError

MAX_ELEMENTS = 2**22
"""Most elements of a tensor; far below what overflows a 64-bit size."""
MAX_ID_LENGTH = 128
PRIORITY = "priority"
"""Parameter of a request, as in Triton: 1, the default, comes before 2."""
_SIZES = {"BOOL": 1, "INT32": 4, "INT64": 8, "FP32": 4}
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "BYTES": "bytes_contents",
}


def check(request: Any, spec: ModelSpec) -> None:
    """Check a request to an endpoint.

    Args:
        request: ``ModelInferRequest`` of the Open Inference Protocol.

    Raises:
        InvalidRequestError: If a field is not as specified; the message names it.
    """
    if request.model_version and not (request.model_version.isdecimal() and len(request.model_version) < 10):
        raise InvalidRequestError(f"model version is {request.model_version[:20]!r}, expected a number")
    if len(request.id) > MAX_ID_LENGTH or not request.id.isprintable():
        raise InvalidRequestError(f"the request id has {len(request.id)} characters, expected at most {MAX_ID_LENGTH}")
    if request.id.startswith(PROBE_ID):
        raise InvalidRequestError(f"the request id starts with {PROBE_ID!r}, which the server reserves")
    _no_parameters([name for name in request.parameters if name != PRIORITY], "the request")
    low_priority(request)
    _check_names([tensor.name for tensor in request.inputs], spec.input_names, "input")
    _check_names([tensor.name for tensor in request.outputs], spec.output_names, "output")
    for output in request.outputs:
        _no_parameters(output.parameters, f"output '{output.name}'")
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequestError(f"{len(raw)} raw contents for {len(request.inputs)} inputs, expected one each")
    tensors = {tensor.name: tensor for tensor in spec.inputs}
    for number, tensor in enumerate(request.inputs):
        _no_parameters(tensor.parameters, f"input '{tensor.name}'")
        count = _elements(tensor, tensors[tensor.name])
        _check_contents(tensor, count, raw[number] if raw else None)


def low_priority(request: Any) -> bool:
    """Return whether a request has the priority 2, which comes after 1, the default.

    Raises:
        InvalidRequestError: If it is neither.
    """
    if PRIORITY not in request.parameters:
        return False
    value = request.parameters[PRIORITY]
    kind = value.WhichOneof("parameter_choice")
    priority = getattr(value, kind) if kind in ("int64_param", "uint64_param") else None
    if priority not in (1, 2):
        raise InvalidRequestError(f"the parameter {PRIORITY!r} is {priority}, expected the integer 1 or 2")
    return bool(priority == 2)


def _no_parameters(parameters: Any, owner: str) -> None:
    """Refuse parameters: shared memory, classification of outputs and sequences are not for clients."""
    if parameters:
        raise InvalidRequestError(f"{owner} has the parameter {min(parameters)[:40]!r}, expected none")


def _check_names(names: Sequence[str], known: Sequence[str], kind: str) -> None:
    for name in names:
        if name not in known:
            raise InvalidRequestError(f"unexpected {kind} '{name[:40]}', expected {', '.join(known)}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequestError(f"{kind} '{twice}' is given more than once")


def _elements(tensor: Any, spec: TensorSpec) -> int:
    """Return the number of elements of an input.

    Raises:
        InvalidRequestError: If type or shape differ from the specification.
    """
    name, shape, expected = tensor.name, list(tensor.shape), (ANY, *spec.dims)
    if tensor.datatype != spec.dtype:
        raise InvalidRequestError(f"'{name}' is of type {tensor.datatype[:20] or 'none'}, expected {spec.dtype}")
    fits = len(shape) == len(expected) and all(
        size >= 1 and wanted in (ANY, size) for size, wanted in zip(shape, expected, strict=True)
    )
    if not fits:
        sizes = ", ".join("any" if size == ANY else str(size) for size in expected)
        raise InvalidRequestError(f"'{name}' has the shape {shape[:10]}, expected [{sizes}], each at least 1")
    count = math.prod(int(size) for size in shape)
    if count > MAX_ELEMENTS:
        raise InvalidRequestError(f"'{name}' has {count} elements, expected at most {MAX_ELEMENTS}")
    return count


def _check_contents(tensor: Any, count: int, raw: bytes | None) -> None:
    """Check that a tensor has the contents that its shape promises."""
    name, dtype = tensor.name, tensor.datatype
    if raw is None:
        given = [field.name for field, _ in tensor.contents.ListFields()]
        found = len(getattr(tensor.contents, _CONTENTS[dtype])) if given in ([], [_CONTENTS[dtype]]) else -1
        if found != count:
            raise InvalidRequestError(f"'{name}': expected {count} values of type {dtype} in {_CONTENTS[dtype]}")
        return
    if tensor.HasField("contents"):
        raise InvalidRequestError(f"'{name}' has both contents and raw contents, expected one of them")
    if dtype in _SIZES and len(raw) != count * _SIZES[dtype]:
        raise InvalidRequestError(f"'{name}' has {len(raw)} bytes, expected {count * _SIZES[dtype]} for {count} values")
    if dtype not in _SIZES and not _holds(raw, count):
        raise InvalidRequestError(f"'{name}': expected {count} strings, each after its length in four bytes")


def _holds(raw: bytes, count: int) -> bool:
    """Return whether bytes are exactly ``count`` strings, each preceded by its length."""
    at = 0
    for _ in range(count):
        if at + 4 > len(raw):
            return False
        at += 4 + int(struct.unpack_from("<I", raw, at)[0])
    return at == len(raw)
