"""The endpoint: an image and optional labels in, labels with probabilities out."""

from __future__ import annotations

from typing import Any

import numpy as np
from prompt_classification import spec

from albef.serving import protocol
from albef.serving.endpoint import Endpoint
from albef.serving.endpoint_values import Array, softmax, values_of


class TritonPythonModel(Endpoint):
    """One instance of the endpoint."""

    task = spec.SPEC

    async def answer(self, request: Any) -> dict[str, Array]:
        """Return labels and probabilities, both ``(B, C)``."""
        given = values_of(request, protocol.LABELS)
        labels = self.settings.classes if given is None else [self.text(label, protocol.LABELS) for label in given[0]]
        (features,), _ = await self.run_vision(request, [protocol.IMAGE_FEAT])
        classes = np.stack([await self.class_feature(label) for label in labels])
        names = np.array([label.encode() for label in labels], dtype=np.object_)
        return {
            protocol.LABELS: np.stack([names] * len(features)),
            protocol.PROBABILITIES: softmax(features @ classes.T / self.settings.temperature).astype(np.float32),
        }

    async def class_feature(self, label: str) -> Array:
        """Return the mean feature of the prompts of a class ``(P,)``."""
        words = self.tokenize([template.format(label) for template in self.settings.templates])
        (features,) = await self.infer(spec.TEXT_GRAPH, words, [protocol.TEXT_FEAT])
        mean = features.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean))
