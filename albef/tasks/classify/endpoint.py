"""Zero-shot classification endpoint: an image and labels in, probabilities of the labels out.

B = rows of a request, C = labels, P = projection width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from albef.serving import protocol
from albef.serving.endpoint_values import Array, QueryError, softmax, values_of
from albef.tasks.classify import prompts, spec
from albef.tasks.retrieval.encoding import EncodingEndpoint

KEPT = 16
"""Most recent lists of labels whose features are kept: many requests have the labels of an earlier one."""
Texts = tuple[str, ...]


class TritonPythonModel(EncodingEndpoint):
    """Zero-shot classification endpoint."""

    task = spec.SPEC

    def initialize(self, args: dict[str, str]) -> None:
        """Load the endpoint."""
        super().initialize(args)
        self.kept: dict[tuple[Texts, Texts], Array] = {}  # features by labels and templates, most recent last

    async def answer(self, request: Any) -> dict[str, Array]:
        """Return labels and probabilities, both ``(B, C)``."""
        labels, templates = self.read_labels(request)
        try:
            texts = prompts.prompts(labels, templates)
        except prompts.PromptError as error:
            raise QueryError(str(error), error.field) from error
        _, features = await self.encode_images(request)
        key = labels, templates
        classes = self.kept.pop(key, None)
        if classes is None:
            classes = prompts.class_features(await self.text_features(texts), len(labels))
        self.kept[key] = classes
        if len(self.kept) > KEPT:
            del self.kept[next(iter(self.kept))]
        names = np.array([label.encode() for label in labels], dtype=np.object_)
        return {
            protocol.LABELS: np.stack([names] * len(features)),
            protocol.PROBABILITIES: softmax(features @ classes.T / self.settings.temperature),
        }

    def read_labels(self, request: Any) -> tuple[Texts, Texts]:
        """Return labels and templates of a request.

        Raises:
            QueryError: If rows differ, there are too many, or one is empty.
        """
        labels, templates = self.row(request, protocol.LABELS), self.row(request, spec.TEMPLATES)
        count = len(labels) * len(templates)
        if not 1 <= count <= spec.MAX_PROMPTS:
            raise QueryError(
                f"'{protocol.LABELS}' x '{spec.TEMPLATES}': {len(labels)} x {len(templates)} texts, "
                f"expected 1 to {spec.MAX_PROMPTS}",
                protocol.LABELS,
            )
        size = len(templates) * sum(map(len, labels)) + len(labels) * sum(map(len, templates))
        if size > spec.MAX_PROMPT_BYTES:
            raise QueryError(
                f"'{protocol.LABELS}' x '{spec.TEMPLATES}': the texts have {size} bytes, "
                f"expected at most {spec.MAX_PROMPT_BYTES}",
                protocol.LABELS,
            )
        return (
            tuple(self.text(label, protocol.LABELS) for label in labels),
            tuple(self.text(template, spec.TEMPLATES) for template in templates),
        )

    def row(self, request: Any, name: str) -> list[bytes]:
        """Return an input that all rows share; the default templates if there are none."""
        values = values_of(request, name)
        if values is None:
            return [template.encode() for template in prompts.LABEL_ALONE]
        if (values != values[0]).any():
            raise QueryError(f"'{name}' must be the same for all images of a request", name)
        return list(values[0])
