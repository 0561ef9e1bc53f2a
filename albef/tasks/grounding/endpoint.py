"""Grounding endpoint: image and expression in, heat map and box out.

B = rows of a request, n = proposals per row, G = patches per side.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from albef.inference.boxes import best_box, hot_box
from albef.serving import protocol
from albef.serving.endpoint import Array, Endpoint, QueryError, values_of
from albef.tasks.grounding import spec


def read_boxes(request: Any) -> Array | None:
    """Return the proposals ``(B, n, 4)`` of a request, None if absent.

    Raises:
        QueryError: If there are too many, or one is not finite or has no area.
    """
    name = spec.BOXES
    boxes = values_of(request, name)
    if boxes is None:
        return None
    if not 1 <= boxes.shape[1] <= spec.MAX_BOXES:
        raise QueryError(f"'{name}' has {boxes.shape[1]} boxes per row, expected 1 to {spec.MAX_BOXES}", name)
    if not np.isfinite(boxes).all() or (boxes[..., 2:] <= 0).any():
        raise QueryError(f"'{name}': expected finite x, y, width, height with width and height above 0", name)
    return boxes


class TritonPythonModel(Endpoint):
    """Grounding endpoint."""

    task = spec.SPEC

    async def answer(self, request: Any) -> dict[str, Array]:
        """Return heat maps ``(B, G, G)`` and boxes ``(B, 4)``."""
        boxes = read_boxes(request)
        words = self.tokenize(self.texts(request))
        (embeds,), sizes = await self.run_vision(request, [protocol.IMAGE_EMBEDS])
        feeds = {protocol.IMAGE_EMBEDS: embeds, **words}
        (tokens,) = await self.infer(spec.HEAT_GRAPH, feeds, [spec.HEAT_MAP])
        heat = tokens.sum(axis=1) / words[protocol.ATTENTION_MASK].sum(axis=1)[:, None, None]
        chosen: list[Any]
        if boxes is None:
            chosen = [hot_box(each, *size) for each, size in zip(heat, sizes, strict=True)]
        else:
            rows = zip(heat, sizes, boxes, strict=True)
            chosen = [proposals[best_box(each, *size, proposals)] for each, size, proposals in rows]
        return {spec.HEAT_MAP: heat, spec.BOX: np.array(chosen, dtype=np.float32)}
