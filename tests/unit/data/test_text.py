from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from albef.data.text import clean, pre_caption


def official(caption: str, max_words: int) -> str:
    """The official ``pre_caption`` (dataset/utils.py), word for word."""
    caption = (
        re.sub(r"([,.'!?\"()*#:;~])", "", caption.lower())
        .replace("-", " ")
        .replace("/", " ")
        .replace("<person>", "person")
    )
    caption = re.sub(r"\s{2,}", " ", caption)
    caption = caption.rstrip("\n").strip(" ")
    words = caption.split(" ")
    return " ".join(words[:max_words])


def test_cleans_as_the_paper_data_is() -> None:
    assert clean(' A <person>, "half-way" up/down;  it\'s 5:30!\n') == "a person half way up down its 530"
    assert pre_caption("one two three four", 3) == "one two three"
    assert pre_caption("...", 3) == ""


@given(st.text(st.sampled_from("abC ,.-/'!\n<person>1é"), max_size=40), st.integers(1, 8))
def test_agrees_with_the_official_code(text: str, words: int) -> None:
    # White space aside: the official code leaves single line breaks, which the tokenizer drops.
    if "\n" not in text:
        assert pre_caption(text, words) == official(text, words)


@given(st.text(max_size=60))
def test_cleaning_twice_changes_nothing(text: str) -> None:
    assert clean(clean(text)).split() == clean(text).split()
