"""Changes of English texts that keep their meaning or turn it around.

A function returns None where its change does not apply.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_COLORS = "black blue brown gray green orange pink purple red white yellow"
COLORS = frozenset(_COLORS.split())
_FUNCTION_WORDS = """
about above across after against all along also among an and any are around as at be because before behind below
beneath beside between both but by can does down each every for from had has have he her here his how if in inside into
is it its many more most near next no not of off on one onto or other out outside over she show shows since so some
than that their them then there these they this those through to together toward under up was what when where which
while who whose why with without you your
"""
FUNCTION_WORDS = ARTICLES | frozenset(_FUNCTION_WORDS.split())
"""Words that name no thing and no property."""
_STARTS = ARTICLES | set(NUMBERS)

_LEFT_RIGHT = {"left": "right", "leftmost": "rightmost", "leftward": "rightward"}
_UP_DOWN = {
    "on top of": "below",
    "above": "below",
    "over": "under",
    "top": "bottom",
    "topmost": "bottommost",
    "upper": "lower",
}
_BESIDE = {**_LEFT_RIGHT, **{right: left for left, right in _LEFT_RIGHT.items()}}
_OPPOSITES = {
    **_BESIDE,
    **{low: high for high, low in _UP_DOWN.items() if high != "on top of"},
    **_UP_DOWN,
    "beneath": "above",
    "underneath": "above",
}
_NEGATION = r"no|not|none|nothing|never|neither|nor|without|(?:is|are|was|were|do|does|did|has|have|can|will)nt"
_NEGATED = re.compile(rf"\b({_NEGATION})\b")
_UNCERTAIN = re.compile(rf"\b({_NEGATION}|at least|at most|more|less|fewer|or)\b")
_NUMBER = re.compile(rf"\b({'|'.join(NUMBERS[1:])}|how many|number)\b")
_SIDE = "|".join(sorted(_OPPOSITES, key=len, reverse=True))
_RELATION = re.compile(rf"(?: is| are)?(?: to the| on the)? ({_SIDE})(?: of)? (?=a |an |the |{' |'.join(NUMBERS)} )")


def _substituted(text: str, words: Mapping[str, str]) -> str | None:
    """Replace words and phrases by others, all at once."""
    pattern = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    changed = re.sub(rf"\b({pattern})\b", lambda match: words[match[1]], text)
    return None if changed == text else changed


def names_left_or_right(text: str) -> bool:
    """Return whether mirroring the image may change what a text means."""
    return _substituted(text, _BESIDE) is not None


def names_side(text: str) -> bool:
    """Return whether a text says where something is."""
    return _substituted(text, _OPPOSITES) is not None


def names_number(text: str) -> bool:
    """Return whether a text counts, or asks to."""
    return _NUMBER.search(text) is not None


def names_color(text: str) -> bool:
    """Return whether a text names a color."""
    return not COLORS.isdisjoint(text.split())


def without_articles(text: str) -> str | None:
    """Leave out articles, as people do who type a query."""
    words = text.split()
    kept = [word for word in words if word not in ARTICLES]
    return " ".join(kept) if 0 < len(kept) < len(words) else None


def _ends(words: list[str]) -> int:
    """Return the number of words of the phrase that a list starts with."""
    if not words or words[0] not in _STARTS:
        return 0
    return next((i for i, word in enumerate(words) if i and word in FUNCTION_WORDS), len(words))


def _around(before: str, after: str) -> tuple[str, str, str, str] | None:
    """Return the phrases next to a conjunction or relation, between what is before and after them."""
    left, right = before.split(), after.split()
    start = next((i for i in range(len(left) - 1, -1, -1) if left[i] in _STARTS | FUNCTION_WORDS), len(left))
    if start and start < len(left) and left[start - 1] in _STARTS:  # the two cats
        start -= 1
    end = _ends(right)
    if _ends(left[start:]) < 2 or end < 2:
        return None
    parts = (left[:start], left[start:], right[:end], right[end:])
    rest, first, second, tail = map(" ".join, parts)
    return None if first == second else (rest, first, second, tail)


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def reordered(text: str) -> str | None:
    """Exchange the two things of "a cat and two dogs".

    Texts with a side are left alone, as their order may be that of the things.
    """
    before, connection, after = text.partition(" and ")
    if not connection or " and " in after or names_side(text) or "between" in before.split():
        return None
    parts = _around(before, after)
    return None if parts is None else _joined(parts[0], parts[2], "and", parts[1], parts[3])


def inverted(text: str) -> str | None:
    """Name the two things of a relation in the other order.

    "a cat left of a dog" becomes "a dog right of a cat".
    """
    match = _RELATION.search(text)
    if match is None:
        return None
    before, after = text[: match.start()], text[match.end() :]
    if names_side(before) or names_side(after) or (match[1] in _BESIDE and " of " not in match[0]):
        return None
    parts = _around(before, after)
    if parts is None:
        return None
    relation = _OPPOSITES[match[1]]
    return _joined(parts[0], parts[2], relation, "of" if relation in _BESIDE else "", parts[1], parts[3])


def paraphrased(text: str) -> str | None:
    """Name two things in the other order, without another meaning."""
    return reordered(text) or inverted(text)


def opposite(text: str) -> str | None:
    """Exchange left and right, above and below."""
    return None if _NEGATED.search(text) else _substituted(text, _OPPOSITES)


def exchanged_sides(text: str) -> str:
    """Exchange left and right, if the text names them."""
    return _substituted(text, _BESIDE) or text


def recounted(text: str) -> str | None:
    """Count one more of the first thing that there are several of."""
    if _UNCERTAIN.search(text):
        return None
    more = dict(pairwise(NUMBERS[1:]))
    found = next((word for word in text.split() if word in more), None)
    return None if found is None else re.sub(rf"\b{found}\b", more[found], text, count=1)


def exchanged_colors(text: str) -> str | None:
    """Exchange the first two colors that a text names."""
    colors = list(dict.fromkeys(word for word in text.split() if word in COLORS))
    if len(colors) < 2 or _UNCERTAIN.search(text):
        return None
    return _substituted(text, {colors[0]: colors[1], colors[1]: colors[0]})


def is_certain(text: str) -> bool:
    """Return whether another word makes a text wrong: it has no negation and no bound."""
    return _UNCERTAIN.search(text) is None
