"""Embedding endpoint: texts or images in, features out.

B = rows of a request, P = projection width.
"""

from __future__ import annotations

from typing import Any

from albef.serving.endpoint_values import Array
from albef.tasks.embed import spec
from albef.tasks.retrieval.encoding import EncodingEndpoint


class TritonPythonModel(EncodingEndpoint):
    """Embedding endpoint."""

    task = spec.SPEC

    async def answer(self, request: Any) -> dict[str, Array]:
        """Return features ``(B, P)``."""
        if self.by_text(request):
            return {spec.EMBEDDING: await self.text_features(self.texts(request))}
        _, features = await self.encode_images(request)
        return {spec.EMBEDDING: features}
