"""Named sprites and backgrounds of the emoji data set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

Color = tuple[int, int, int]


class LexiconError(ValueError):
    """A sprite folder that is malformed or has too few sprites."""


@dataclass(frozen=True, slots=True)
class Sprite:
    """An object that images show.

    ``name`` is its full name ("red apple"). ``color`` and ``noun`` are the parts of names that differ only in color.
    """

    name: str
    plural: str
    category: str
    image: Image.Image  # RGBA, cropped to the opaque area
    synonym: str | None
    color: str | None
    noun: str


@dataclass(frozen=True, slots=True)
class Background:
    """Background of an image; ``pattern`` is ``plain``, ``stripes``, ``dots`` or ``checks``."""

    color: str
    pattern: str
    base_color: Color
    pattern_color: Color

    @property
    def name(self) -> str:
        """Name in scenes and texts: ``blue``, ``green stripes``."""
        return self.color if self.pattern == "plain" else f"{self.color} {self.pattern}"


# Pale, so that sprites of the same color stay visible.
BACKGROUNDS: dict[str, Background] = {
    b.name: b
    for b in (
        Background("blue", "plain", (150, 196, 240), (150, 196, 240)),
        Background("yellow", "plain", (252, 240, 150), (252, 240, 150)),
        Background("pink", "plain", (250, 190, 210), (250, 190, 210)),
        Background("gray", "plain", (176, 176, 176), (176, 176, 176)),
        Background("white", "plain", (250, 250, 250), (250, 250, 250)),
        Background("green", "stripes", (226, 246, 222), (150, 214, 146)),
        Background("purple", "dots", (240, 230, 250), (186, 150, 226)),
        Background("orange", "checks", (254, 236, 210), (250, 190, 120)),
    )
}


class Lexicon:
    """Sprites of a folder by name, in the order of its ``lexicon.json``."""

    def __init__(self, sprites: list[Sprite]) -> None:
        self.sprites = {s.name: s for s in sprites}
        self.names = list(self.sprites)

    def __getitem__(self, name: str) -> Sprite:
        return self.sprites[name]

    def __iter__(self) -> Iterator[Sprite]:
        return iter(self.sprites.values())

    def __len__(self) -> int:
        return len(self.sprites)


def load(folder: Path) -> Lexicon:
    """Read ``lexicon.json`` and the sprites it names.

    Raises:
        LexiconError: If a file is missing or unreadable, or an entry lacks a key; the message names it.
    """
    sprites: list[Sprite] = []
    for row, entry in enumerate(entries(folder)):
        sprites.append(_read(folder, row, entry, [sprite.name for sprite in sprites]))
    return Lexicon(sprites)


def entries(folder: Path) -> list[Any]:
    """Return the unchecked entries of ``lexicon.json``.

    Raises:
        LexiconError: If the file cannot be read, or is not a JSON list with at least one entry.
    """
    path = folder / "lexicon.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LexiconError(f"{path}: cannot read the list of sprites ({error.strerror})") from error
    except ValueError as error:
        raise LexiconError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(rows, list) or not rows:
        raise LexiconError(f"{path}: expected a JSON list of sprites with at least one entry")
    return rows


def problems(folder: Path, rows: list[Any]) -> list[str | None]:
    """Return the problem of each entry, None for valid ones."""
    result: list[str | None] = []
    names: list[str] = []
    for row, entry in enumerate(rows):
        try:
            names.append(_read(folder, row, entry, names).name)
            result.append(None)
        except LexiconError as error:
            result.append(str(error))
    return result


def _read(folder: Path, row: int, entry: Any, taken: list[str]) -> Sprite:
    where = f"{folder / 'lexicon.json'}, entry {row}"
    name = _text(entry, "name", where)
    if name in taken:
        raise LexiconError(f"{where}: the name {name!r} is taken, expected a unique name for each sprite")
    return Sprite(
        name=name,
        plural=_text(entry, "plural", where),
        category=_text(entry, "category", where),
        image=_sprite(folder / _text(entry, "file", where)),
        synonym=entry.get("synonym"),
        color=entry.get("color"),
        noun=entry.get("noun", name),
    )


def _text(entry: Any, key: str, where: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value:
        raise LexiconError(f"{where}, {key}: expected a non-empty string, got {value!r}")
    return value


def _sprite(path: Path) -> Image.Image:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            layer = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError) as error:
        raise LexiconError(f"{path}: not a readable PNG sprite ({error})") from error
    box = layer.getchannel("A").point(lambda a: 255 if a > 32 else 0).getbbox()
    if box is None:
        raise LexiconError(f"{path}: the sprite is fully transparent, expected opaque pixels")
    return layer.crop(box)
