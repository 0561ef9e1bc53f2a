"""Leakage check: images of evaluation lists in training lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from albef.data.schema import known_lists
from albef.validation.columns import lists
from albef.validation.facts import Part
from albef.validation.images import ImageIndex, Rows

_EVALUATION = ("_val", "_test")


def held_out_lists(name: str) -> tuple[str, ...]:
    """Return the evaluation lists that a list must not share images with.

    Pretraining must be disjoint from every evaluation, a train list from the evaluations of its task, val from test.
    """
    tasks = ("retrieval", "vqa", "ve", "nlvr", "grounding")
    if name in ("pretrain", "text_assignment"):
        return tuple(task + split for task in tasks for split in _EVALUATION)
    task, _, split = name.rpartition("_")
    return {"train": (f"{task}_val", f"{task}_test"), "val": (f"{task}_test",)}.get(split, ())


class Leaks:
    """Images of evaluation lists, by content.

    Args:
        parts: Facts of the records by list.
        images: Facts of the images.
        max_distance: See `ImageIndex.near`; None compares pixels only.
    """

    def __init__(self, parts: Mapping[str, Sequence[Part]], images: ImageIndex, max_distance: int | None) -> None:
        self._parts, self._images, self._distance = parts, images, max_distance

    def of(self, name: str) -> HeldOut:
        """Return the images that list ``name`` must not have."""
        images, others = self._near
        source = np.full(len(self._images), -1)
        ends: list[tuple[str, int]] = []
        end = 0
        for other in held_out_lists(name):
            for part in self._parts.get(other, ()):
                content, row = _contents(part, self._images)
                content, first = np.unique(content, return_index=True)
                new = source[content] < 0
                source[content[new]] = end + row[first][new]
            end += self._parts[other][-1].stop if other in self._parts else 0
            ends.append((other, end))
        near = np.full(len(self._images), -1)
        held_out = source[others] >= 0
        images, place = np.unique(images[held_out], return_index=True)  # the first pair of an image is the nearest
        near[images] = others[held_out][place]
        return HeldOut(self._images, source, near, ends)

    @cached_property
    def _near(self) -> tuple[Rows, Rows]:
        evaluation = {other for name in known_lists() for other in held_out_lists(name)} & self._parts.keys()
        if self._distance is None or not evaluation:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        rows = [_contents(part, self._images)[0] for name in sorted(evaluation) for part in self._parts[name]]
        return self._images.near(np.unique(np.concatenate(rows)), self._distance)


def _contents(part: Part, images: ImageIndex) -> tuple[Rows, Rows]:
    """Return the contents of all images of a part, and their rows in the list."""
    flat, lengths = lists(part.read(["images"])["images"])
    rows = part.start + np.repeat(np.arange(len(lengths)), lengths)
    known = flat >= 0
    return images.content[flat[known]], rows[known]


class HeldOut:
    """Images that a list must not have.

    Args:
        images: Facts of the images.
        source: Held-out record with this content, by image row; -1 if there is none. Records of all lists are numbered.
        near: Content of the held-out image that looks the same, by image row; -1 if there is none.
        ends: Names of the held-out lists, and the numbers after their last records.
    """

    def __init__(
        self, images: ImageIndex, source: NDArray[np.int64], near: NDArray[np.int64], ends: Sequence[tuple[str, int]]
    ) -> None:
        self._images, self._source, self._near, self._ends = images, source, near, ends

    def problems(self, images: Rows, records: Rows) -> Iterator[tuple[int, str]]:
        """Yield the record and a message for every image that is held out.

        Args:
            images: Rows of images, -1 for an unknown one.
            records: Record of each image.
        """
        images, records = images[images >= 0], records[images >= 0]
        content = self._images.content[images]
        near, exact = self._near[content], self._source[content]
        places = np.flatnonzero((exact >= 0) | (near >= 0))
        paths = self._images.texts(images[places], "path")
        others = iter(self._images.texts(near[places][exact[places] < 0], "path"))
        for place, path in zip(places, paths, strict=True):
            if exact[place] >= 0:
                yield records[place], f"{path} has the same content as an image of {self._name(exact[place])}"
                continue
            bits = np.bitwise_count(self._images.hashes[content[place]] ^ self._images.hashes[near[place]])
            yield (
                records[place],
                f"{path} looks like {next(others)}, an image of {self._name(self._source[near[place]])} "
                f"(perceptual hashes differ in {bits} bits)",
            )

    def _name(self, number: int) -> str:
        start = 0
        for name, end in self._ends:
            if number < end:
                return f"{name}, row {number - start}"
            start = end
        raise AssertionError(number)
