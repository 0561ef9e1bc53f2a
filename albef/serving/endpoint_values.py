"""Inputs of a request to an endpoint, and helpers for its outputs.

The module runs in Triton's Python backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from albef.serving.byte_inputs import omitted

Array = NDArray[Any]


class QueryError(ValueError):
    """Invalid request, answered with INVALID_ARGUMENT.

    Args:
        field: Name of the invalid input; label of the refusal counter.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def values_of(request: Any, name: str) -> Array | None:
    """Return an input of a request, None if it is absent.

    Raises:
        QueryError: If it has too many values.
    """
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values: Array = tensor.as_numpy()
    if omitted(values):
        raise QueryError(f"'{name}' has {values.size} values, which are too many for a request", name)
    return values


def has(request: Any, name: str) -> bool:
    """Return whether a request has an input."""
    return pb_utils.get_input_tensor_by_name(request, name) is not None


def check_choices(request: Any, name: str, limit: int) -> None:
    """Check the number of choices that each row of an input has, before they are read.

    Args:
        name: Input whose first dimensions are rows and choices.
        limit: Most choices over all rows.

    Raises:
        QueryError: If there are none or too many.
    """
    rows, choices = pb_utils.get_input_tensor_by_name(request, name).shape()[:2]
    if not 1 <= choices <= limit // rows:
        text = f"{choices} choices in each of {rows} rows, expected at least 1 and at most {limit} in a request"
        raise QueryError(f"'{name}' has {text}", name)


def constant(request: Any, name: str, default: Any) -> Any:
    """Return the value of an input shared by all rows.

    Raises:
        QueryError: If the rows differ.
    """
    values = values_of(request, name)
    if values is None:
        return default
    values = values.reshape(-1)
    if (values != values[0]).any():
        raise QueryError(f"'{name}' must be the same for all queries of a request", name)
    return values.tolist()[0]


def softmax(logits: Array) -> Array:
    """Return probabilities over the last axis; a logit of -inf gives 0."""
    shifted: Array = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def padded(rows: Iterable[Sequence[Any]], fill: Any, dtype: Any) -> Array:
    """Return rows of different lengths as one array, padded at their ends."""
    lines = [list(row) for row in rows]
    length = max((len(row) for row in lines), default=0)
    return np.array([row + [fill] * (length - len(row)) for row in lines], dtype=dtype).reshape(len(lines), length)
