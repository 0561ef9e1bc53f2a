"""ALBEF's text cleaning before tokenization (official ``dataset/utils.py``); torch-free."""

from __future__ import annotations

import re

_PUNCTUATION = re.compile(r"[,.'!?\"()*#:;~]")
_SPACES = re.compile(r"\s+")


def clean(text: str) -> str:
    """Lower-case ``text``, drop punctuation, split at hyphens and slashes, collapse white space."""
    text = _PUNCTUATION.sub("", text.lower()).replace("-", " ").replace("/", " ").replace("<person>", "person")
    return _SPACES.sub(" ", text).strip()


def pre_caption(text: str, max_words: int) -> str:
    """Clean a caption or question and truncate it to ``max_words`` words."""
    return " ".join(clean(text).split(" ")[:max_words])
