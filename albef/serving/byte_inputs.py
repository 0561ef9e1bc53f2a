"""Bounded reading of BYTES inputs.

Triton's Python backend converts every value of a BYTES input to an object before an endpoint sees the request. Millions
of empty values would take seconds, in which no request is received.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class _Omitted:
    """Stand-in for the values of an input that has too many.

    Endpoints check the shape before they read values.
    """

    def reshape(self, shape: Sequence[int]) -> NDArray[Any]:
        """Return empty values that share memory."""
        return np.broadcast_to(np.array(b"", dtype=np.object_), tuple(shape))


def read_values(encoded: NDArray[np.uint8], limit: int) -> NDArray[Any] | _Omitted:
    """Return the values of an input, each of which follows its length.

    Args:
        limit: Most values; if there are more, all are omitted.
    """
    values: list[bytes] = []
    data, at = encoded.data, 0
    while at < len(data):
        if len(values) == limit:
            return _Omitted()
        (size,) = struct.unpack_from("<I", data, at)
        values.append(bytes(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return np.array(values, dtype=np.object_)


def omitted(values: NDArray[Any]) -> bool:
    """Return whether the values of an input were omitted."""
    return values.dtype == np.object_ and values.size > 1 and not any(values.strides)


def limit_values(backend: Any, limit: int) -> None:
    """Let the backend read no more than ``limit`` values of an input.

    Args:
        backend: Module ``triton_python_backend_utils``, whose function of this name the backend calls.
    """
    backend.deserialize_bytes_tensor = functools.partial(read_values, limit=limit)
