"""Paints scenes. A picture is a function of its scene, so that the same seed writes the same bytes."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from albef.datasets.emoji.lexicon import BACKGROUNDS, Background, Lexicon
from albef.datasets.emoji.scenes import Scene


class Painter:
    """Paints square pictures, keeping resized sprites and backgrounds.

    Args:
        lexicon: The sprites that scenes name.
        side: Pixels per side of a picture.
    """

    def __init__(self, lexicon: Lexicon, side: int) -> None:
        self.lexicon = lexicon
        self.papers = {name: _paper(background, side) for name, background in BACKGROUNDS.items()}
        self.sprites: dict[tuple[str, int, int], Image.Image] = {}

    def paint(self, scene: Scene) -> Image.Image:
        """The RGB picture of ``scene``."""
        canvas = self.papers[scene.background].copy()
        for group in scene.groups:
            for x, y, width, height in group.boxes:
                key = (group.name, width, height)
                sprite = self.sprites.get(key)
                if sprite is None:
                    sprite = self.lexicon[group.name].image.resize((width, height), Image.Resampling.LANCZOS)
                    self.sprites[key] = sprite
                canvas.paste(sprite, (x, y), sprite)
        return canvas

    def png(self, scene: Scene) -> bytes:
        """The picture as a PNG file."""
        buffer = io.BytesIO()
        # Speed over size: a level of 1 writes a third faster than the default.
        self.paint(scene).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def _paper(background: Background, side: int) -> Image.Image:
    pixels = np.empty((side, side, 3), dtype=np.uint8)
    pixels[:] = background.paper
    row, column = np.mgrid[0:side, 0:side]
    unit = max(side // (6 if background.pattern == "dots" else 8), 2)
    if background.pattern == "stripes":
        inked = (row + column) // (unit // 2 or 1) % 2 == 0
    elif background.pattern == "dots":
        inked = (row % unit - unit / 2 + 0.5) ** 2 + (column % unit - unit / 2 + 0.5) ** 2 < (unit * 0.35) ** 2
    elif background.pattern == "checks":
        inked = (row // unit + column // unit) % 2 == 0
    else:
        return Image.fromarray(pixels)
    pixels[inked] = background.ink
    return Image.fromarray(pixels)
