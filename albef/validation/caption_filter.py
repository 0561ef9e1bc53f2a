"""Filter of pretraining captions, by `validate.captions`.

Captions that it drops are no bad records: they are counted, and never fail the gate.
"""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from albef.config import CaptionsConfig, ConfigError
from albef.data.schema import Record
from albef.data.text import clean

Row = tuple[Record, *tuple[Any, ...]]
"""A valid record, and whatever belongs to it."""

REASONS = ("short", "long", "few_letters", "language", "repeated")
"""Reasons in the order of the tests; the first that applies counts."""
KINDS = ("pretrain",)
"""Kinds of lists that are filtered: those of pretraining. Evaluation would not be comparable."""
_LEAST_PROBABILITY = 0.02
"""Of the allowed languages together; low, as the language of a few words is uncertain (figures in `docs/data.md`)."""


class CaptionFilter:
    """Drops captions, and records without another one.

    Raises:
        ConfigError: If a language is unknown.
    """

    def __init__(self, config: CaptionsConfig) -> None:
        self.config = config
        if config.languages is not None:
            known = {str(label) for label in self._identifier.labels}
            if unknown := [language for language in config.languages if language not in known]:
                raise ConfigError(
                    f"validate.captions.languages: {unknown[0]!r} is unknown; known are {', '.join(sorted(known))}"
                )

    def apply(self, rows: Iterable[Row]) -> tuple[Iterator[Row], dict[str, Any]]:
        """Return the rows that are kept, in order, and the counts.

        Args:
            rows: Iterated twice: repetitions are only known at the end.
        """
        reasons, sizes = self._judge(record for record, *_ in rows)
        numbers = np.bincount(reasons, minlength=len(REASONS) + 1).tolist()
        good = np.add.reduceat(reasons == 0, np.cumsum(sizes) - sizes, dtype=np.int64)
        counts = {
            "captions": len(reasons),
            "dropped": dict(zip(REASONS, numbers[1:], strict=True)),
            "rows": len(sizes),
            "rows_dropped": int((good == 0).sum()),
        }
        return _kept(rows, reasons), counts

    def _judge(self, records: Iterable[Record]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Judge the captions of records.

        Returns:
            A reason for each caption ``(C,)``, as its place in `REASONS` plus 1, or 0 for none; and the number of
            captions of each record ``(N,)``.
        """
        codes, sizes, hashes = array("B"), array("i"), array("Q")
        for record in records:
            captions = _captions(record)
            sizes.append(len(captions))
            for caption in captions:
                text = clean(caption)
                codes.append(code := self._reason(caption, text))
                if code == 0 and self.config.max_repeats is not None:
                    hashes.append(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big"))
        reasons = np.array(codes, dtype=np.uint8)
        if self.config.max_repeats is not None:
            repeated = _occurrences(np.array(hashes, dtype=np.uint64)) >= self.config.max_repeats
            reasons[np.flatnonzero(reasons == 0)[repeated]] = _code("repeated")
        return reasons, np.array(sizes, dtype=np.int32)

    def _reason(self, caption: str, text: str) -> int:
        config = self.config
        words = len(text.split())
        if config.min_words is not None and words < config.min_words:
            return _code("short")
        if config.max_words is not None and words > config.max_words:
            return _code("long")
        if config.min_letters is not None and _letters(caption) < config.min_letters:
            return _code("few_letters")
        if config.languages is not None and not self._in_language(caption):
            return _code("language")
        return 0

    @cached_property
    def _identifier(self) -> Any:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def _in_language(self, caption: str) -> bool:
        """Return whether a caption may be in one of the allowed languages."""
        allowed = self.config.languages or ()
        if self._identifier.classify(caption)[0] in allowed:  # twice as fast as all probabilities
            return True
        probabilities = (float(value) for language, value in self._identifier.rank(caption) if language in allowed)
        return sum(probabilities) >= _LEAST_PROBABILITY


def _code(reason: str) -> int:
    return 1 + REASONS.index(reason)


def _captions(record: Record) -> list[str]:
    value = record["caption"]
    return [value] if isinstance(value, str) else value


def _letters(caption: str) -> float:
    """Return the fraction of letters, and of their marks, among characters other than white space."""
    kinds = [unicodedata.category(character)[0] for character in caption if not character.isspace()]
    return sum(kind in "LM" for kind in kinds) / max(1, len(kinds))


def _occurrences(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return how often the value in each place occurs before it."""
    order = np.argsort(hashes, kind="stable")
    places = np.arange(len(hashes))
    new = np.diff(hashes[order], prepend=~hashes[order[:1]]) != 0
    result = np.empty(len(hashes), dtype=np.int64)
    result[order] = places - np.maximum.accumulate(np.where(new, places, 0))
    return result


def _kept(rows: Iterable[Row], reasons: NDArray[np.uint8]) -> Iterator[Row]:
    place = 0
    for record, *others in rows:
        captions = _captions(record)
        codes = reasons[place : place + len(captions)]
        place += len(captions)
        if not codes.any():
            yield (record, *others)
        elif not codes.all():
            good = [caption for caption, code in zip(captions, codes, strict=True) if code == 0]
            yield (record | {"caption": good}, *others)
