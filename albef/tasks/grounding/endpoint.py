"""The grounding endpoint: a picture and an expression in, a heat map and a box out."""

import numpy as np

from albef.serving import protocol
from albef.serving.endpoint import Endpoint, QueryError, values_of
from albef.tasks.grounding import spec
from albef.tasks.grounding.boxes import best_box, hot_box


def boxes_of(request):
    """The proposals of a request ``(B, n, 4)``, None where it has none.

    Raises:
        QueryError: If they are too many, or one has no area.
    """
    name = spec.BOXES
    boxes = values_of(request, name)
    if boxes is None:
        return None
    if not 1 <= boxes.shape[1] <= spec.MAX_BOXES:
        raise QueryError(f"'{name}' holds {boxes.shape[1]}, expected 1 to {spec.MAX_BOXES}", name)
    if not np.isfinite(boxes).all() or (boxes[..., 2:] <= 0).any():
        raise QueryError(f"'{name}': expected x, y, width, height, the last two above 0", name)
    return boxes


class TritonPythonModel(Endpoint):
    """One instance of the endpoint."""

    task = spec.SPEC

    async def answer(self, request):
        """Heat maps ``(B, G, G)`` and boxes ``(B, 4)``."""
        boxes = boxes_of(request)
        words = self.tokenize(self.texts(request))
        (embeds,), sizes = await self.run_vision(request, [protocol.IMAGE_EMBEDS])
        feeds = {protocol.IMAGE_EMBEDS: embeds, **words}
        (tokens,) = await self.infer(spec.HEAT_GRAPH, feeds, [spec.HEAT_MAP])
        heat = tokens.sum(axis=1) / words[protocol.ATTENTION_MASK].sum(axis=1)[:, None, None]
        if boxes is None:
            chosen = [hot_box(each, *size) for each, size in zip(heat, sizes, strict=True)]
        else:
            chosen = [own[best_box(each, *size, own)] for each, size, own in zip(heat, sizes, boxes, strict=True)]
        return {spec.HEAT_MAP: heat, spec.BOX: np.array(chosen, dtype=np.float32)}
