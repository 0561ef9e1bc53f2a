"""Words of a kind, found by the places in which training texts use them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from itertools import combinations

from albef.data.text import clean
from albef.tasks.texts import FUNCTION_WORDS

_MIN_PLACES = 3  # that two words of a kind have in common
_MAX_WORDS = 60  # of a place; the most frequent ones
_NUMBER = 5  # words of a kind to keep


def content_words(text: str) -> list[str]:
    """Return the distinct words of a cleaned text that name a thing or a property."""
    return [word for word in dict.fromkeys(text.split()) if word not in FUNCTION_WORDS]


def kinds(texts: Iterable[str], known: Collection[str] | None = None) -> dict[str, list[str]]:
    """Return words of the same kind as each word, the most similar first.

    Two words are of a kind if they occur between the same two words before and the same two after in several texts, as
    "dog" and "cat" in "left of a dog on a". Both must occur together in some text: "dog" and "puppy" name the same
    thing and never do.

    Args:
        known: The only words to consider, such as those of answers, which have no synonyms among them.
    """
    places: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    together: set[tuple[str, str]] = set()
    for text in texts:
        words = ["", "", *clean(text).split(), "", ""]
        found = {word for word in words[2:-2] if word not in FUNCTION_WORDS and (known is None or word in known)}
        together.update(combinations(sorted(found), 2))
        for at in range(2, len(words) - 2):
            if words[at] in found:
                places[(*words[at - 2 : at], *words[at + 1 : at + 3])][words[at]] += 1
    shared: Counter[tuple[str, str]] = Counter()
    for counts in places.values():
        shared.update(combinations(sorted(word for word, _ in counts.most_common(_MAX_WORDS)), 2))
    similar: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for (first, second), number in shared.items():
        if number >= _MIN_PLACES and (first, second) in together:
            similar[first].append((-number, second))
            similar[second].append((-number, first))
    return {word: [other for _, other in sorted(others)[:_NUMBER]] for word, others in sorted(similar.items())}
