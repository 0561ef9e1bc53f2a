"""The visual entailment endpoint: a picture and a hypothesis in, three probabilities out.

What it imports from ``albef`` lies beside this file.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np

from albef.serving import protocol
from albef.serving.endpoint import Endpoint, softmax


class TritonPythonModel(Endpoint):
    """One instance of the endpoint."""

    spec, settings_type = protocol.ENTAILMENT, protocol.EntailmentSettings

    async def answer(self, request):
        """Labels and probabilities, both ``(B, 3)``."""
        words = self.words(self.texts(request))
        (embeds,), _ = await self.look(request, [protocol.IMAGE_EMBEDS])
        feeds = {protocol.IMAGE_EMBEDS: embeds, **words}
        (logits,) = await self.infer(protocol.CLASSIFY, feeds, [protocol.LOGITS])
        labels = np.array([label.encode() for label in self.settings.labels], dtype=np.object_)
        return {
            protocol.ENDPOINT_LABELS: np.stack([labels] * len(logits)),
            protocol.ENDPOINT_PROBABILITIES: softmax(logits),
        }
