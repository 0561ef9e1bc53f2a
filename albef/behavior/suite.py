"""The behavioral tests of a model and their results.

As in CheckList, a test is one of minimum functionality (MFT: the output is right), invariance (INV: it stays the same
when the input changes in a way that does not matter) or direction (DIR: it changes as the input does). Cases are rows
of the test list; a change that applies to none of them leaves a test without cases.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import ImageEnhance, ImageOps

from albef.behavior.backgrounds import tinted
from albef.behavior.words import content_words
from albef.data.images import load_image
from albef.tasks import texts
from albef.tasks.behavior import Case, Scored, Subject, Turned

Change = Callable[[Case], Case | None]

_BRIGHTNESS = 0.9
_REPLACEMENTS = 2  # per word of a text
_MIN_PAIRS = 5  # of a word in the table of words


@dataclass(frozen=True)
class Result:
    """Result of a test.

    Args:
        kind: MFT, INV or DIR.
        about: What is tested.
        failure: One case that failed.
    """

    task: str
    kind: str
    test: str
    about: str
    cases: int
    passed: int
    failure: str | None

    @property
    def rate(self) -> float | None:
        """Share of the cases that passed; None without cases."""
        return self.passed / self.cases if self.cases else None

    @property
    def error(self) -> float | None:
        """Standard error of the rate."""
        rate = self.rate
        return None if rate is None else math.sqrt(rate * (1 - rate) / self.cases)


def _of_text(change: Callable[[str], str | None]) -> Change:
    def changed(case: Case) -> Case | None:
        text = change(case.text)
        return None if text is None or text == case.text else replace(case, text=text)

    return changed


def _darker(case: Case) -> Case:
    images = tuple(ImageEnhance.Brightness(load_image(image)).enhance(_BRIGHTNESS) for image in case.images)
    return replace(case, images=images)


def _on_tint(case: Case) -> Case | None:
    if texts.names_color(case.text) or any(word.startswith("color") for word in case.text.split()):
        return None
    images = [tinted(load_image(image)) for image in case.images]
    found = tuple(image for image in images if image is not None)
    return replace(case, images=found) if len(found) == len(images) else None


def _mirrored(case: Case) -> Case | None:
    if texts.names_left_or_right(case.text):
        return None
    images = [load_image(image) for image in case.images]
    boxes = tuple((images[0].width - box[0] - box[2], *box[1:4]) for box in case.boxes)
    return replace(case, images=tuple(map(ImageOps.mirror, images)), boxes=boxes)


def _exchanged(case: Case) -> Case | None:
    if len(case.images) < 2:
        return None
    return replace(case, images=case.images[::-1], text=texts.exchanged_sides(case.text))


FUNCTIONALITY: dict[str, tuple[str, Callable[[str], bool]]] = {
    "sides": ("right for texts that say where something is", texts.names_side),
    "numbers": ("right for texts that count", texts.names_number),
    "colors": ("right for texts that name a color", texts.names_color),
}
INVARIANCE: dict[str, tuple[str, Change]] = {
    "articles": ("same without a, an and the", _of_text(texts.without_articles)),
    "order": (
        "same with two things in the other order, as in 'b right of a' for 'a left of b'",
        _of_text(texts.paraphrased),
    ),
    "brightness": ("same for a darker image", _darker),
    "background": ("same on a tinted background of one or two colors, if the text is not about colors", _on_tint),
    "mirror": ("same for a mirrored image, if the text names no side", _mirrored),
    "exchange": ("same for the two images exchanged, with their sides in the text", _exchanged),
}
DIRECTION: dict[str, tuple[str, Change]] = {
    "opposite": ("fits worse with left and right, above and below exchanged", _of_text(texts.opposite)),
    "one more": ("fits worse with a number that is one too high", _of_text(texts.recounted)),
    "other colors": ("fits worse with two colors exchanged", _of_text(texts.exchanged_colors)),
}


def run(subject: Subject, kinds: Mapping[str, list[str]]) -> tuple[list[Result], dict[str, tuple[int, int]]]:
    """Test a model.

    Args:
        kinds: Words of the same kind as each word; see `albef.behavior.words.kinds`.

    Returns:
        Results, and for each word the number of its comparisons and of those passed (empty if texts have no score).
    """
    predictions = subject.predict(subject.cases)
    results = [*_functionality(subject, predictions), *_invariance(subject, predictions)]
    if isinstance(subject, Scored):
        scored, words = _direction(subject, kinds)
        return [*results, *scored], words
    if isinstance(subject, Turned):
        results.append(_changed(subject, predictions, ("DIR", *subject.turn), subject.turned, same=False))
    return results, {}


def _functionality(subject: Subject, predictions: Sequence[Any]) -> list[Result]:
    """Test whether predictions are right, by what the text is about."""
    results = []
    known = [(c, p) for c, p in zip(subject.cases, predictions, strict=True) if c.truth is not None]
    named = [test for _, test in FUNCTIONALITY.values()]
    others = ("right for all other texts", lambda text: not any(names(text) for names in named))
    for name, (about, applies) in {**FUNCTIONALITY, "others": others}.items():
        rows = [(c, subject.right(c, p), subject.shown(p)) for c, p in known if applies(c.text)]
        results.append(_result(subject, ("MFT", name, about), rows))
    if subject.asks:
        found = [(c, subject.fits(c, p), subject.shown(p)) for c, p in zip(subject.cases, predictions, strict=True)]
        answers = [(case, fit, shown) for case, fit, shown in found if fit is not None]
        results.append(_result(subject, ("MFT", "kind of answer", subject.asks), answers))
    return results


def _invariance(subject: Subject, predictions: Sequence[Any]) -> list[Result]:
    tests = dict(INVARIANCE)
    if subject.refers:  # the first thing is another one then
        del tests["order"]
    if all(len(case.images) == 1 for case in subject.cases):
        del tests["exchange"]
    return [
        _changed(subject, predictions, ("INV", name, about), change, same=True)
        for name, (about, change) in tests.items()
    ]


def _changed(
    subject: Subject, predictions: Sequence[Any], names: tuple[str, str, str], change: Change, same: bool
) -> Result:
    """Compare the predictions for changed cases with those before."""
    pairs = [(case, changed) for case in subject.cases if (changed := change(case)) is not None]
    after = subject.predict([changed for _, changed in pairs]) if pairs else []
    rows = []
    for (case, changed), now in zip(pairs, after, strict=True):
        before = predictions[case.row]
        text = changed if changed.text != case.text else None
        shown = f"{subject.shown(before)}, then {subject.shown(now)}"
        rows.append((case, subject.same(case, before, now) is same, f'"{text.text}": {shown}' if text else shown))
    return _result(subject, names, rows)


def _direction(subject: Scored, kinds: Mapping[str, list[str]]) -> tuple[list[Result], dict[str, tuple[int, int]]]:
    """Test whether texts that are made wrong fit worse, for all changes in one pass."""
    holding = [case for case in subject.cases if subject.holds(case)]
    pairs: list[tuple[str, str, Case, Case]] = []
    for name, (_, change) in DIRECTION.items():
        pairs += [(name, "", case, changed) for case in holding if (changed := change(case)) is not None]
    for case in holding:
        for word in content_words(case.text) if texts.is_certain(case.text) else ():
            others = [other for other in kinds.get(word, ()) if other not in case.text.split()]
            for other in others[:_REPLACEMENTS]:
                text = " ".join(other if each == word else each for each in case.text.split())
                pairs.append(("other word", word, case, replace(case, text=text)))
    rows: defaultdict[str, list[tuple[Case, bool, str]]] = defaultdict(list)
    words: defaultdict[str, list[bool]] = defaultdict(list)
    if pairs:
        scores = subject.support([*holding, *(changed for *_, changed in pairs)])
        before = {case.row: score for case, score in zip(holding, scores, strict=False)}
        after = scores[len(holding) :]
        for (name, word, case, changed), score in zip(pairs, after, strict=True):
            passed = bool(score < before[case.row])
            shown = f'"{changed.text}": {before[case.row]:.3f}, then {score:.3f}'
            rows[name].append((case, passed, shown))
            if word:
                words[word].append(passed)
    abouts = {name: about for name, (about, _) in DIRECTION.items()}
    abouts["other word"] = "fits worse with a word replaced by another of its kind"
    counted = {word: (len(found), sum(found)) for word, found in words.items() if len(found) >= _MIN_PAIRS}
    return [_result(subject, ("DIR", name, about), rows[name]) for name, about in abouts.items()], counted


def _result(subject: Subject, names: tuple[str, str, str], rows: Sequence[tuple[Case, bool, str]]) -> Result:
    """Count what passed, and describe the first failure."""
    failure = next((f'{", ".join(c.names)}: "{c.text}" -> {shown}' for c, passed, shown in rows if not passed), None)
    return Result(subject.task, *names, len(rows), sum(passed for _, passed, _ in rows), failure)
