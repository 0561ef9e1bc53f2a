"""Grounding endpoint: image and expression in, heat map and box out.

B = rows of a request, n = proposals per row, G = patches per side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from albef.inference.boxes import best_box, hot_box
from albef.serving import protocol
from albef.serving.endpoint import Endpoint
from albef.serving.endpoint_values import Array, QueryError, check_choices, values_of
from albef.tasks.grounding import spec


def read_boxes(request: Any, limit: int) -> Array | None:
    """Return the proposals ``(B, n, 4)`` of a request, None if absent.

    Args:
        limit: Most proposals over all rows.

    Raises:
        QueryError: If there are too many, or one is not finite or has no area.
    """
    name = spec.BOXES
    boxes = values_of(request, name)
    if boxes is None:
        return None
    check_choices(request, name, limit)
    if not np.isfinite(boxes).all() or (boxes[..., 2:] <= 0).any():
        raise QueryError(f"'{name}': expected finite x, y, width, height with width and height above 0", name)
    return boxes


def choose(heat: Array, sizes: Sequence[tuple[int, int]], boxes: Array | None) -> Array:
    """Return the box of each row ``(B, 4)``, one of ``boxes`` if given.

    Args:
        heat: Heat maps ``(B, G, G)``.
        sizes: Width and height of the images.
    """
    chosen: list[Any]
    if boxes is None:
        chosen = [hot_box(each, *size) for each, size in zip(heat, sizes, strict=True)]
    else:
        rows = zip(heat, sizes, boxes, strict=True)
        chosen = [proposals[best_box(each, *size, proposals)] for each, size, proposals in rows]
    return np.array(chosen, dtype=np.float32)


class TritonPythonModel(Endpoint):
    """Grounding endpoint."""

    task = spec.SPEC

    async def answer(self, request: Any) -> dict[str, Array]:
        """Return heat maps ``(B, G, G)`` and boxes ``(B, 4)``."""
        boxes = read_boxes(request, self.settings.max_boxes)
        words = self.tokenize(self.texts(request))
        (embeds,), sizes = await self.run_vision(request, [protocol.IMAGE_EMBEDS])
        feeds = {protocol.IMAGE_EMBEDS: embeds, **words}
        (tokens,) = await self.infer(spec.HEAT_GRAPH, feeds, [spec.HEAT_MAP])
        heat = tokens.sum(axis=1) / words[protocol.ATTENTION_MASK].sum(axis=1)[:, None, None]
        chosen = await asyncio.to_thread(choose, heat, sizes, boxes)  # up to tens of milliseconds a row
        return {spec.HEAT_MAP: heat, spec.BOX: chosen}
