"""Visual entailment endpoint: an image and a hypothesis in, three probabilities out.

B = rows of a request.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from albef.serving import protocol
from albef.serving.endpoint import Array, Endpoint, softmax
from albef.tasks.entailment import spec


class TritonPythonModel(Endpoint):
    """Visual entailment endpoint."""

    task = spec.SPEC

    async def answer(self, request: Any) -> dict[str, Array]:
        """Return labels and probabilities, both ``(B, 3)``."""
        words = self.tokenize(self.texts(request))
        (embeds,), _ = await self.run_vision(request, [protocol.IMAGE_EMBEDS])
        feeds = {protocol.IMAGE_EMBEDS: embeds, **words}
        (logits,) = await self.infer(protocol.CLASSIFY, feeds, [protocol.LOGITS])
        labels = np.array([label.encode() for label in self.settings.labels], dtype=np.object_)
        return {
            protocol.LABELS: np.stack([labels] * len(logits)),
            protocol.PROBABILITIES: softmax(logits),
        }
