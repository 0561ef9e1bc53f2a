"""Rendering of scenes; deterministic, so equal seeds give equal bytes."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from albef.datasets.emoji.lexicon import BACKGROUNDS, Background, Lexicon
from albef.datasets.emoji.scenes import Scene


class Renderer:
    """Renderer of square images that caches resized sprites and backgrounds."""

    def __init__(self, lexicon: Lexicon, side: int) -> None:
        self.lexicon = lexicon
        self.backgrounds = {name: _background(background, side) for name, background in BACKGROUNDS.items()}
        self.sprites: dict[tuple[str, int, int], Image.Image] = {}

    def render(self, scene: Scene) -> Image.Image:
        """Return the RGB image of ``scene``."""
        canvas = self.backgrounds[scene.background].copy()
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
        """Return the image of ``scene`` as a PNG file."""
        buffer = io.BytesIO()
        # Compression level 1 writes a third faster than the default.
        self.render(scene).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def _background(background: Background, side: int) -> Image.Image:
    pixels = np.empty((side, side, 3), dtype=np.uint8)
    pixels[:] = background.base_color
    row, column = np.mgrid[0:side, 0:side]
    unit = max(side // (6 if background.pattern == "dots" else 8), 2)
    if background.pattern == "stripes":
        mask = (row + column) // (unit // 2 or 1) % 2 == 0
    elif background.pattern == "dots":
        mask = (row % unit - unit / 2 + 0.5) ** 2 + (column % unit - unit / 2 + 0.5) ** 2 < (unit * 0.35) ** 2
    elif background.pattern == "checks":
        mask = (row // unit + column // unit) % 2 == 0
    else:
        return Image.fromarray(pixels)
    pixels[mask] = background.pattern_color
    return Image.fromarray(pixels)
