"""Texts that describe labels, and their features.

C = labels, T = templates, P = projection width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLACE = "{}"
"""Place of the label in a template."""
LABEL_ALONE = (PLACE,)
"""Templates by default."""


class PromptError(ValueError):
    """Labels or templates that cannot be used.

    Args:
        field: ``labels`` or ``templates``.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"'{field}': {message}")
        self.field = field


def prompts(labels: Sequence[str], templates: Sequence[str] = LABEL_ALONE) -> list[str]:
    """Return ``C * T`` texts, those of the first label first.

    Raises:
        PromptError: If labels or templates are missing, a label occurs twice, or a template does not have exactly one
            place for the label.
    """
    for field, values in (("labels", labels), ("templates", templates)):
        if isinstance(values, str) or not values:
            raise PromptError(field, f"expected a list of at least one text, got {values!r}")
    label, count = Counter(labels).most_common(1)[0]
    if count > 1:
        raise PromptError("labels", f"{label!r} occurs {count} times, expected different labels")
    for template in templates:
        if template.count(PLACE) != 1:
            raise PromptError("templates", f"{template!r} needs exactly one {PLACE} where the label goes")
    # Not `str.format`, which could read attributes and pad to any length.
    return [template.replace(PLACE, label) for label in labels for template in templates]


def class_features(features: NDArray[Any], labels: int) -> NDArray[Any]:
    """Return features of the labels ``(C, P)``.

    These are the means over their texts, scaled to unit length, as in CLIP.

    Args:
        features: Features of `prompts` ``(C * T, P)``, of unit length.
        labels: Number of labels.
    """
    means: NDArray[Any] = features.reshape(labels, -1, features.shape[1]).mean(axis=1)
    unit: NDArray[Any] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit
