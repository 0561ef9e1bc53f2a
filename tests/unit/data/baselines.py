"""Text-only baseline classifier for tests of data sets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise


class BagOfWords:
    """Naive Bayes over words and pairs of adjacent words."""

    def __init__(self, rows: Sequence[tuple[str, str]]) -> None:
        self.labels = Counter(label for _, label in rows)
        self.counts: dict[str, Counter[str]] = {label: Counter() for label in self.labels}
        for text, label in rows:
            self.counts[label].update(self.features(text))
        self.size = len({f for c in self.counts.values() for f in c})

    @staticmethod
    def features(text: str) -> list[str]:
        words = text.split()
        return words + [f"{a} {b}" for a, b in pairwise(words)]

    def guess(self, text: str) -> str:
        def score(label: str) -> float:
            counts, total = self.counts[label], self.counts[label].total() + self.size
            return math.log(self.labels[label]) + sum(math.log((counts[f] + 1) / total) for f in self.features(text))

        return max(sorted(self.labels), key=score)
