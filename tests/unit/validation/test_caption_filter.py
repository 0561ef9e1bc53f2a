"""Tests of the filter of pretraining captions."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from albef.config import CaptionsConfig, ConfigError, ValidateConfig
from albef.data.tables import RecordTable, write_records
from albef.data.text import clean
from albef.validation import gate
from albef.validation.caption_filter import CaptionFilter
from tests.errors import refuses
from tests.unit.validation.conftest import Make

WORDS = ("a", "dog", "Dog!", "cat", "12", "runs", "...", "42,")
captions = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)
records = st.lists(captions | st.lists(captions, min_size=1, max_size=3), max_size=12)


def kept(config: CaptionsConfig, *values: Any) -> tuple[list[Any], dict[str, Any]]:
    """Captions of the records that are kept, and the counts."""
    rows = [({"image": str(number), "caption": value}, number) for number, value in enumerate(values)]
    passed, counts = CaptionFilter(config).apply(rows)
    found = list(passed)
    assert all(record["image"] == str(number) for record, number in found)
    return [record["caption"] for record, _ in found], counts


@pytest.mark.parametrize(
    ("limits", "reason", "good", "bad"),
    [
        ({"min_words": 2}, "short", "a dog", "dog ..."),
        ({"max_words": 3}, "long", "a big dog!", "a well-known dog"),
        ({"min_letters": 0.5}, "few_letters", "dog 123", "dog 1234"),
        ({"min_letters": 1.0}, "few_letters", "नीला कुत्ता", "नीला 7"),
        ({"languages": ["en"]}, "language", "two dogs play in the snow", "zwei Hunde spielen im Schnee"),
        ({"languages": ["en", "de"]}, "language", "zwei Hunde spielen im Schnee", "deux chiens jouent dans la neige"),
        ({"languages": ["ja"]}, "language", "雪の中で遊ぶ二匹の犬", "two dogs play in the snow"),
        ({"max_repeats": 1}, "repeated", "a dog", "A dog."),
    ],
)
def test_each_limit_drops_what_is_beyond_it(limits: dict[str, Any], reason: str, good: str, bad: str) -> None:
    found, counts = kept(CaptionsConfig(**limits), good, bad, [bad, "a dog, one of two dogs in the snow", bad])
    assert found[0] == good
    assert bad not in found
    assert counts["dropped"][reason] >= 3
    assert counts["rows_dropped"] >= 1
    assert sum(counts["dropped"].values()) == counts["dropped"][reason]


def test_a_record_keeps_its_other_captions() -> None:
    found, counts = kept(CaptionsConfig(min_words=2), ["dog", "a dog", "the dog"], ["cat"], ["a cat"], "cat", "a cat")
    assert found == [["a dog", "the dog"], ["a cat"], "a cat"]
    assert counts == {
        "captions": 7,
        "dropped": {"short": 3, "long": 0, "few_letters": 0, "language": 0, "repeated": 0},
        "rows": 5,
        "rows_dropped": 2,
    }


@given(
    records,
    st.none() | st.integers(1, 4),
    st.none() | st.integers(1, 4),
    st.none() | st.floats(0, 1),
    st.none() | st.integers(1, 3),
)
def test_what_is_kept_keeps_to_the_limits(
    values: list[Any], low: int | None, high: int | None, letters: float | None, repeats: int | None
) -> None:
    config = CaptionsConfig(min_words=low, max_words=high, min_letters=letters, max_repeats=repeats)
    found, counts = kept(config, *values)
    texts = [text for value in found for text in ([value] if isinstance(value, str) else value)]
    everything = [text for value in values for text in ([value] if isinstance(value, str) else value)]
    assert counts["captions"] - sum(counts["dropped"].values()) == len(texts)
    assert counts["rows"] - counts["rows_dropped"] == len(found)
    assert (counts["captions"], counts["rows"]) == (len(everything), len(values))

    def sound(text: str) -> bool:
        words, solid = len(clean(text).split()), text.replace(" ", "")
        return (
            (low is None or words >= low)
            and (high is None or words <= high)
            and (letters is None or sum(map(str.isalpha, solid)) / len(solid) >= letters)
        )

    # In order, each sound caption up to its limit.
    seen: Counter[str] = Counter()
    expected = []
    for text in filter(sound, everything):
        if repeats is None or seen[clean(text)] < repeats:
            expected.append(text)
        seen[clean(text)] += 1
    assert texts == expected


def test_languages_are_known_before_anything_is_read(config: ValidateConfig, tmp_path: Path, make: Make) -> None:
    wrong = dataclasses.replace(config, captions=CaptionsConfig(languages=["en", "english"]))
    with refuses(ConfigError, "validate.captions.languages", "'english'", "de"):
        gate.run(wrong, make(), tmp_path / "out")


def test_the_gate_filters_pretraining_and_counts(make: Make, config: ValidateConfig, tmp_path: Path) -> None:
    def spoil(rows: list[Any]) -> None:
        rows[3]["caption"] = ["thing", "a thing of beauty"]
        rows[4]["caption"] = ["thing"]

    data, out = make(pretrain=spoil, retrieval_test=lambda rows: rows[0].update(caption=["thing"])), tmp_path / "out"
    limits = CaptionsConfig(min_words=2)
    gate.run(dataclasses.replace(config, captions=limits), data, out)  # nothing is refused
    lists = {path.stem: list(RecordTable(path)) for path in (out / "lists").glob("*.arrow")}
    given_rows = list(RecordTable(data / "pretrain.arrow"))
    expected = [*given_rows[:3], given_rows[3] | {"caption": ["a thing of beauty"]}, *given_rows[5:]]
    assert lists["pretrain"] == expected
    assert lists["retrieval_test"] == list(RecordTable(data / "retrieval_test.arrow"))
    report = json.loads((out / "report.json").read_text())
    assert report["captions"] == {
        "pretrain": {
            "captions": 11,
            "dropped": {"short": 2, "long": 0, "few_letters": 0, "language": 0, "repeated": 0},
            "rows": 10,
            "rows_dropped": 1,
        }
    }
    assert report["lists"]["pretrain"] == {"rows": 10, "bad": 0}
    assert json.loads((out / "quarantine.json").read_text()) == []


def test_sources_pass_the_gate_and_are_counted(make: Make, quarantine: ValidateConfig, tmp_path: Path) -> None:
    def spoil(rows: list[Any]) -> None:
        rows[1]["image"] = "gone.png"
        rows[5]["caption"] = ["thing"]

    data, out = make(pretrain=spoil), tmp_path / "out"
    table = RecordTable(data / "pretrain.arrow")
    sources = ["coco.json"] * 4 + ["vg.json"] * 4 + [None] * 2
    write_records(data / "pretrain.arrow", list(zip(table, table.image_rows(), sources, strict=True)))
    gate.run(dataclasses.replace(quarantine, captions=CaptionsConfig(min_words=2)), data, out)
    names, numbers = RecordTable(out / "lists" / "pretrain.arrow").sources()
    assert [names[number] for number in numbers] == ["coco.json"] * 3 + ["vg.json"] * 3 + [""] * 2
    assert json.loads((out / "report.json").read_text())["sources"] == {"pretrain": {"coco.json": 3, "vg.json": 3}}
