"""VQA accuracy as in the challenge (``vqaEval.py``): agreement with ten people after normalising the answers."""

from __future__ import annotations

import re
from collections.abc import Sequence

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_DIGITS)} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
# The official pattern: its look-behind is misspelt, so that every full stop goes that no digit follows.
_FULL_STOP = re.compile(r"\.(?!\d)")
_FULL_STOPS = 32  # the official call passes re.UNICODE in the place of the count
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that'd that'd've that's there'd there'd've
there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _misspellings() -> dict[str, str]:
    """Every contraction with one apostrophe left out -> as it is written."""
    found = {}
    for word in _CONTRACTIONS.split():
        for place, letter in enumerate(word):
            if letter == "'":
                found[word[:place] + word[place + 1 :]] = word
    return found


_WORDS = _misspellings()


def normalise(answer: str) -> str:
    """An answer as the official evaluation compares it."""
    text = answer
    for sign in _PUNCTUATION:
        alone = f"{sign} " in answer or f" {sign}" in answer or _THOUSANDS.search(answer)
        text = text.replace(sign, "" if alone else " ")
    text = _FULL_STOP.sub("", text, count=_FULL_STOPS)
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_WORDS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """How far people agree with ``answer``: the mean, over leaving one of them out, of min(1, agreeing others / 3).

    Answers are normalised unless all people say the same, as in the official code.

    Args:
        people: What each of them answered; officially ten.
    """

    def bare(text: str) -> str:
        return text.replace("\n", " ").replace("\t", " ").strip()

    answer, given = bare(answer), [bare(text) for text in people]
    if len(set(given)) > 1:
        answer, given = normalise(answer), [normalise(text) for text in given]
    agreeing = sum(text == answer for text in given)
    scores = [min(1.0, (agreeing - (text == answer)) / 3) for text in given]
    return sum(scores) / len(scores)
