"""Heat maps at the size of the page."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from albef.inference.boxes import Box, upsample
from albef.tasks.grounding.overlay import CHOSEN, framed, overlay, resized

_SIDE = 384
"""Longer side in pixels; overlays of large images would take seconds."""


def located(heat: NDArray[np.floating[Any]], box: Box, image: Image) -> Image:
    """Return an image under its heat map ``(G, G)``, with the box."""
    shown = resized(image, _SIDE)
    scaled = [value * shown.width / image.width for value in box[:4]]
    return framed(overlay(shown, upsample(heat, *shown.size)), [(scaled, CHOSEN)])
