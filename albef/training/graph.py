"""CUDA graphs of training steps.

A replayed graph launches all kernels of a step at once. Without it, small batches wait for Python.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from albef.tasks.base import Batch

_WARM_UP = 3
"""Steps before the capture, in which libraries and ``torch.compile`` prepare their kernels."""


class Graphs:
    """A captured graph for each combination of shapes.

    Args:
        run: The step, which must not wait for the device. Its second argument is a tensor whose value may change.
    """

    def __init__(self, run: Callable[[Sequence[Batch], Tensor], None]) -> None:
        self._run = run
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._captured: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, list[dict[str, Tensor]]]] = {}
        self._stream = torch.cuda.Stream()

    def __call__(self, parts: Sequence[Batch], alpha: Tensor) -> None:
        """Run the step: the first times as it is, then from its graph."""
        key = tuple((name, value.dtype, *value.shape) for part in parts for name, value in part.items())
        if key not in self._captured:
            self._seen[key] += 1
            if self._seen[key] <= _WARM_UP:
                self._stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self._stream):
                    self._run(parts, alpha)
                torch.cuda.current_stream().wait_stream(self._stream)
                return
            self._captured[key] = self._capture(parts, alpha)
        graph, inputs = self._captured[key]
        for part, values in zip(inputs, parts, strict=True):
            for name, value in values.items():
                part[name].copy_(value, non_blocking=True)
        graph.replay()

    def _capture(self, parts: Sequence[Batch], alpha: Tensor) -> tuple[torch.cuda.CUDAGraph, list[dict[str, Tensor]]]:
        inputs = [{name: value.clone() for name, value in part.items()} for part in parts]
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # the graph has memory of its own
        # Other threads, such as the one that pins batches, may use the device in the meantime.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._run(inputs, alpha)
        return graph, inputs
