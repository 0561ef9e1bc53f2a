"""Endpoint of a classifier: one or two images and a sentence in, probabilities of labels out.

B = rows of a request, C = classes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from albef.serving import protocol
from albef.serving.endpoint import Endpoint
from albef.serving.endpoint_values import Array, softmax


class ClassifierEndpoint(Endpoint):
    """Base class of the endpoints of classifiers.

    Attributes:
        images: Inputs with images.
    """

    images: ClassVar[tuple[str, ...]] = (protocol.IMAGE,)

    async def answer(self, request: Any) -> dict[str, Array]:
        """Return labels and probabilities, both ``(B, C)``."""
        words = self.tokenize(self.texts(request))
        (embeds,), _ = await self.run_vision(request, [protocol.IMAGE_EMBEDS], self.images)
        parts = np.split(embeds, len(self.images))
        feeds = dict(zip((protocol.IMAGE_EMBEDS, protocol.SECOND_IMAGE_EMBEDS), parts, strict=False))
        (logits,) = await self.infer(protocol.CLASSIFY, {**feeds, **words}, [protocol.LOGITS])
        labels = np.array([label.encode() for label in self.settings.labels], dtype=np.object_)
        return {protocol.LABELS: np.stack([labels] * len(logits)), protocol.PROBABILITIES: softmax(logits)}
