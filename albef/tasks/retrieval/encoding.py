"""Base class of the endpoints that compare features of images and texts.

B = rows of a request, T = texts, P = projection width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from albef.serving import protocol
from albef.serving.endpoint import Endpoint
from albef.serving.endpoint_values import Array, QueryError, has
from albef.tasks.retrieval import spec


class EncodingEndpoint(Endpoint):
    """Endpoint with the image and the text encoder of retrieval."""

    def by_text(self, request: Any) -> bool:
        """Return whether the rows of a request are texts rather than images.

        Raises:
            QueryError: If the request has both or neither.
        """
        text, image = has(request, protocol.TEXT), has(request, protocol.IMAGE)
        if text == image:
            present = "both" if text else "neither"
            raise QueryError(f"give exactly one of 'text' and 'image'; this request has {present}", protocol.TEXT)
        return text

    async def encode_images(self, request: Any) -> tuple[Array, Array]:
        """Return tokens and features ``(B, P)`` of the images of a request.

        All endpoints request both outputs, because a response in the cache has those of the request that it answered.
        """
        (embeds, features), _ = await self.run_vision(request, [protocol.IMAGE_EMBEDS, protocol.IMAGE_FEAT])
        return embeds, features

    async def text_features(self, texts: Sequence[str]) -> Array:
        """Return features ``(T, P)`` of any number of texts."""
        size, batches = self.settings.batch_size, []
        for start in range(0, len(texts), size):  # one after the other, so that other requests get in between
            feeds = self.tokenize(texts[start : start + size])
            batches += await self.infer(spec.TEXT_GRAPH, feeds, [protocol.TEXT_FEAT])
        return np.concatenate(batches)
