"""Feature tables: one row per record, all columns that expectations check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from albef.data.schema import known_lists
from albef.data.tables import RecordTable
from albef.validation.columns import first_of_equal, keys, lists, messages, numbers
from albef.validation.facts import Part
from albef.validation.images import ImageIndex, Rows
from albef.validation.leakage import HeldOut
from albef.validation.record_facts import SHARED_IDS, id_of


class Features:
    """Features of a list, part by part, and their sums.

    Args:
        parts: Facts of the records.
        records: The list.
        images: Facts of the images.
        held_out: Images that the list must not have.
        boxes: The data set has boxes, which expressions of grounding refer to.
    """

    def __init__(
        self, parts: Sequence[Part], records: RecordTable, images: ImageIndex, held_out: HeldOut, boxes: bool
    ) -> None:
        self._parts, self._records, self._images, self._held_out, self._boxes = parts, records, images, held_out, boxes
        self.kind = known_lists()[parts[0].name]
        self._first = _first_uses(parts, self.kind in SHARED_IDS)
        self._labels: Counter[str] = Counter()
        self._answers = np.zeros(2, np.int64)

    @property
    def columns(self) -> list[str]:
        """Columns that only some lists have."""
        label, box = self.kind in ("ve", "nlvr"), self.kind == "grounding" and self._boxes
        return ["label"] * label + ["box_problem"] * box

    def __iter__(self) -> Iterator[pd.DataFrame]:
        """Yield the table of each part.

        Columns named ``*_problem`` are empty for good records. For malformed records, all but ``schema_problem`` are
        empty.
        """
        for part in self._parts:
            facts = part.read()
            self._labels.update(facts["label"].drop_null().to_pylist())
            known = numbers(facts["answer_known"].drop_null(), False)
            self._answers += (known.sum(), len(known))
            yield self._table(part, {name: facts[name] for name in facts.column_names})

    def sums(self) -> pd.DataFrame:
        """Return the table of sums over the whole list, once all parts were read.

        ``rows`` is the number of records. ``label_share`` has the fraction of each label, ``answer_known`` the fraction
        of questions whose most frequent answer is a candidate; lists without labels or answers do not have them.
        """
        sums: dict[str, list[float]] = {}
        if "label" in self.columns:
            shares = [count / self._labels.total() for _, count in sorted(self._labels.items())]
            sums["label_share"] = shares or [np.nan]
        if self._answers[1]:
            sums["answer_known"] = [float(self._answers[0] / self._answers[1])]
        length = max(map(len, sums.values()), default=1)
        return pd.DataFrame({"rows": [self._parts[-1].stop] * length, **sums})

    def _table(self, part: Part, facts: dict[str, Any]) -> pd.DataFrame:
        rows = part.stop - part.start
        flat, lengths = lists(facts["images"])
        record = np.repeat(np.arange(rows), lengths)  # of each image
        smallest, largest = self._sides(flat, lengths)
        columns = {
            "row": np.arange(part.start, part.stop),
            "schema_problem": np.array(facts["schema_problem"].to_pylist(), object),
            "image_problem": messages(rows, self._image_problems(flat, record, facts["missing_image"])),
            "smallest_side": smallest,
            "largest_side": largest,
            "fewest_words": numbers(facts["fewest_words"], -1).astype(float),
            "most_words": numbers(facts["most_words"], -1).astype(float),
            "id_problem": messages(rows, self._id_problems(part)),
            "leak_problem": messages(rows, self._held_out.problems(flat, record)),
        }
        for name in ("fewest_words", "most_words"):
            columns[name][columns[name] < 0] = np.nan
        if "label" in self.columns:
            columns["label"] = np.array(facts["label"].to_pylist(), object)
        if "box_problem" in self.columns:
            columns["box_problem"] = np.array(facts["box_problem"].to_pylist(), object)
        return pd.DataFrame({name: pd.Series(values, dtype=values.dtype) for name, values in columns.items()})

    def _image_problems(self, flat: Rows, record: Rows, missing: Any) -> Iterator[tuple[int, str]]:
        places = np.flatnonzero(self._images.smallest[flat] < 0)
        problems = iter(self._images.texts(flat[places][flat[places] >= 0], "problem"))
        for place in places:
            known = flat[place] >= 0
            message = next(problems) if known else f"{missing[record[place]].as_py()}: no such image was prepared"
            yield record[place], message

    def _sides(self, flat: Rows, lengths: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the smallest and the largest side of the images of each record.

        They are NaN where an image cannot be read.
        """
        smallest, largest = np.full(len(lengths), np.nan), np.full(len(lengths), np.nan)
        some = lengths > 0
        starts = (np.cumsum(lengths) - lengths)[some]
        if len(starts):
            low = np.minimum.reduceat(self._images.smallest[flat], starts).astype(float)
            high = np.maximum.reduceat(self._images.largest[flat], starts).astype(float)
            smallest[some], largest[some] = np.where(low < 0, np.nan, low), np.where(low < 0, np.nan, high)
        return smallest, largest

    def _id_problems(self, part: Part) -> Iterator[tuple[int, str]]:
        first = self._first[part.start : part.stop]
        for place in np.flatnonzero(first >= 0):
            found = id_of(self._records[part.start + int(place)], self.kind)
            if found is not None:
                yield int(place), f"{found[0]} {found[1]!r} is already used by row {first[place]}"


def _first_uses(parts: Sequence[Part], shared: bool) -> NDArray[np.int64]:
    """Return the first row with the id of each row that repeats one.

    The result is -1 for all other rows.

    Args:
        shared: Rows with the same image may share an id.
    """
    columns = [part.read(["id", "images"]) for part in parts]
    valid = np.concatenate([c["id"].is_valid().to_numpy() for c in columns])
    first = first_of_equal(np.concatenate([keys(c["id"]) for c in columns]))
    rows = np.arange(len(first))
    repeated = valid & (first != rows)
    if shared:
        image = np.full(len(first), -1)
        for part, column in zip(parts, columns, strict=True):
            flat, lengths = lists(column["images"])
            some = lengths > 0
            image[part.start : part.stop][some] = flat[(np.cumsum(lengths) - lengths)[some]]
        repeated &= image[first] != image
    return np.where(repeated, first, -1)
