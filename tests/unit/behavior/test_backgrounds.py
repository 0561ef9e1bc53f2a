from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from albef.behavior import suite
from albef.behavior.backgrounds import tinted
from albef.datasets.emoji.lexicon import BACKGROUNDS
from albef.datasets.emoji.render import _background
from albef.tasks.behavior import Case

THING = (30, 20, 10)


def scene(name: str, side: int = 64) -> Image.Image:
    image = _background(BACKGROUNDS[name], side)
    image.paste(THING, (20, 24, 40, 44))
    return image


@pytest.mark.parametrize("name", BACKGROUNDS)
@pytest.mark.parametrize("compressed", [False, True])
def test_the_background_alone_is_tinted(name: str, compressed: bool) -> None:
    image = scene(name)
    if compressed:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=95, subsampling=0)
        image = Image.open(buffer).convert("RGB")
    changed = tinted(image)
    assert changed is not None
    before, after = np.asarray(image), np.asarray(changed)
    same = (before == after).all(-1)
    assert same[26:42, 22:38].all()
    same[20:48, 16:44] = False  # compression blurs the outline
    assert same.mean() < 0.02
    assert (before[0, 0] - after[0, 0])[2] > 20


def test_photos_have_no_background_to_tint() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    assert tinted(Image.fromarray(noise)) is None


@pytest.mark.parametrize(
    ("text", "applies"),
    [("a dog", True), ("a dog on blue", False), ("what color is the dog", False), ("dogs of two colors", False)],
)
def test_texts_about_colors_are_left_out(text: str, applies: bool) -> None:
    (_, change) = suite.INVARIANCE["background"]
    found = change(Case(0, (scene("gray"),), ("a.png",), text, "yes"))
    assert (found is not None) is applies


def test_two_images_change_together_or_not_at_all() -> None:
    (_, change) = suite.INVARIANCE["background"]
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    assert change(Case(0, (scene("gray"), noise), ("a.png", "b.png"), "a dog", "yes")) is None
    found = change(Case(0, (scene("gray"), scene("blue")), ("a.png", "b.png"), "a dog", "yes"))
    assert found is not None
    assert len(found.images) == 2
