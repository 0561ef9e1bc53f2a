"""VQA accuracy as in the challenge (``vqaEval.py``).

Normalized answers are compared with those of ten annotators.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_DIGITS)} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
# As in the official code, whose misspelled look-behind removes every period that is not followed by a digit.
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32  # the official code passes re.UNICODE as the count
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
    """Return contractions that lack one apostrophe -> correct spelling."""
    misspellings = {}
    for word in _CONTRACTIONS.split():
        for position, letter in enumerate(word):
            if letter == "'":
                misspellings[word[:position] + word[position + 1 :]] = word
    return misspellings


_WORDS = _misspellings()


def normalize(answer: str) -> str:
    """Normalize an answer as the official evaluation does."""
    text = answer
    for sign in _PUNCTUATION:
        remove = f"{sign} " in answer or f" {sign}" in answer or _THOUSANDS.search(answer)
        text = text.replace(sign, "" if remove else " ")
    text = _PERIOD.sub("", text, count=_MAX_PERIODS)
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_WORDS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """Return the agreement of annotators with ``answer``.

    It is the mean over annotators of min(1, number of the other annotators who agree / 3). Answers are normalized
    unless all annotators agree, as in the official code.

    Args:
        people: Answers of the annotators, officially ten.
    """

    def strip(text: str) -> str:
        return text.replace("\n", " ").replace("\t", " ").strip()

    answer, expected = strip(answer), [strip(text) for text in people]
    if len(set(expected)) > 1:
        answer, expected = normalize(answer), [normalize(text) for text in expected]
    agreeing = sum(text == answer for text in expected)
    scores = [min(1.0, (agreeing - (text == answer)) / 3) for text in expected]
    return sum(scores) / len(scores)
