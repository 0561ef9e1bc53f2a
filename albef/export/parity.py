"""Parity gate: ONNX Runtime must reproduce PyTorch.

Inputs include shapes that were not used for tracing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from albef.serving.protocol import ModelSpec

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Arrays = Mapping[str, NDArray[Any]]


class ParityError(ValueError):
    """The outputs of an exported graph and its model differ."""


@dataclass
class Parity:
    """Largest differences of an output over all cases.

    Args:
        shapes: Shapes of the output, such as "2x197x768".
    """

    max_abs: float = 0.0
    max_rel: float = 0.0
    cases: int = 0
    shapes: list[str] = field(default_factory=list)

    def add(self, actual: NDArray[Any], expected: NDArray[Any]) -> None:
        """Add a case to the differences.

        Unequal shapes and non-finite values count as an infinite difference.
        """
        self.cases += 1
        self.shapes.append("x".join(map(str, expected.shape)))
        if actual.shape != expected.shape or not (np.isfinite(actual).all() and np.isfinite(expected).all()):
            self.max_abs = self.max_rel = math.inf
            return
        if not expected.size:
            return
        difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
        self.max_abs = max(self.max_abs, float(difference.max()))
        # Relative to the largest value of the case, as single values may be arbitrarily close to zero.
        scale = max(float(np.abs(expected).max()), 1e-12)
        self.max_rel = max(self.max_rel, float(difference.max()) / scale)


def compare(
    session: InferenceSession, module: nn.Module, spec: ModelSpec, cases: Sequence[dict[str, Any]]
) -> dict[str, Parity]:
    """Run ONNX Runtime and PyTorch on all cases and compare each output.

    Args:
        cases: Inputs by name; the outputs of ONNX Runtime are added, as inputs of later graphs.

    Raises:
        ParityError: If ONNX Runtime fails on a case.
    """
    results = {name: Parity() for name in spec.output_names}
    for case in cases:
        with torch.no_grad():
            expected = module(*(torch.from_numpy(case[name]) for name in spec.input_names))
        expected = expected if isinstance(expected, tuple) else (expected,)
        try:
            actual = session.run(spec.output_names, {name: case[name] for name in spec.input_names})
        except Exception as error:
            shapes = {name: array.shape for name, array in case.items()}
            raise ParityError(f"{spec.name}: ONNX Runtime fails on inputs of shapes {shapes}: {error}") from error
        for name, actual_output, expected_output in zip(spec.output_names, actual, expected, strict=True):
            results[name].add(actual_output, expected_output.numpy())
            case[name] = actual_output
    return results


def check(name: str, results: Mapping[str, Parity], tolerance: float, key: str = "export.tolerance") -> None:
    """Raise an error unless all outputs are within the tolerance.

    Args:
        name: Name of the graph, for messages.
        results: Parity by output.
        key: Parameter with the tolerance, for messages.

    Raises:
        ParityError: If an output was not compared or differs by more than ``tolerance``.
    """
    for output, parity in results.items():
        if not parity.cases:
            raise ParityError(f"{name}: output {output} was not compared")
        if not parity.max_abs <= tolerance:
            raise ParityError(
                f"{name}: output {output} differs from PyTorch by {parity.max_abs:.3g} "
                f"(relative {parity.max_rel:.3g}) over {parity.cases} cases; {key} is {tolerance:g}"
            )
