"""The parity gate: ONNX Runtime must answer as PyTorch does, at shapes the export has not seen too."""

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
    """An exported graph answers differently from its model."""


@dataclass
class Parity:
    """Largest differences of one output over all cases."""

    max_abs: float = 0.0
    max_rel: float = 0.0
    cases: int = 0
    shapes: list[str] = field(default_factory=list)

    def add(self, got: NDArray[Any], expected: NDArray[Any]) -> None:
        """Take one case into account. A difference in shape, or a number on one side only, is infinite."""
        self.cases += 1
        self.shapes.append("x".join(map(str, expected.shape)))
        if got.shape != expected.shape or not (np.isfinite(got).all() and np.isfinite(expected).all()):
            self.max_abs = self.max_rel = math.inf
            return
        if not expected.size:
            return
        difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
        self.max_abs = max(self.max_abs, float(difference.max()))
        # Relative to the largest value of the case: single values may be arbitrarily close to zero.
        scale = max(float(np.abs(expected).max()), 1e-12)
        self.max_rel = max(self.max_rel, float(difference.max()) / scale)


def compare(
    session: InferenceSession, module: nn.Module, spec: ModelSpec, cases: Sequence[Arrays]
) -> dict[str, Parity]:
    """Run every case through both and measure each output.

    Args:
        cases: Inputs by name.

    Raises:
        ParityError: If ONNX Runtime fails on a case that PyTorch answers.
    """
    found = {name: Parity() for name in spec.output_names}
    for case in cases:
        with torch.no_grad():
            expected = module(*(torch.from_numpy(case[name]) for name in spec.input_names))
        expected = expected if isinstance(expected, tuple) else (expected,)
        try:
            got = session.run(spec.output_names, {name: case[name] for name in spec.input_names})
        except Exception as error:
            shapes = {name: array.shape for name, array in case.items()}
            raise ParityError(f"{spec.name}: ONNX Runtime fails on inputs of shapes {shapes}: {error}") from error
        for name, have, want in zip(spec.output_names, got, expected, strict=True):
            found[name].add(have, want.numpy())
    return found


def check(name: str, found: Mapping[str, Parity], tolerance: float) -> None:
    """The gate.

    Raises:
        ParityError: If an output was never compared or differs by more than ``tolerance``; it says by how much.
    """
    for output, parity in found.items():
        if not parity.cases:
            raise ParityError(f"{name}: output {output} was not compared")
        if not parity.max_abs <= tolerance:
            raise ParityError(
                f"{name}: output {output} differs from PyTorch by {parity.max_abs:.3g} "
                f"(relative {parity.max_rel:.3g}) over {parity.cases} cases; export.tolerance is {tolerance:g}"
            )
