"""Leakage check: images of evaluation lists in training lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from albef.data.schema import images_of
from albef.validation.image_stats import ImageStats

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


def find_leaks(
    name: str, lists: Mapping[str, Sequence[Mapping[str, Any] | None]], images: Mapping[str, ImageStats]
) -> list[str | None]:
    """Return a message for every record with a held-out image.

    The result has None for the other records of list ``name``.

    Args:
        lists: Valid records of every list, None in place of a malformed one.
        images: Stats by path; images with the same pixels are the same under any path.
    """
    held_out: dict[str | bytes, str] = {}
    for other in held_out_lists(name):
        for row, record in enumerate(lists.get(other, ())):
            for image in images_of(dict(record)) if record is not None else ():
                for key in _keys(image, images):
                    held_out.setdefault(key, f"{other}, row {row}")
    result: list[str | None] = []
    for record in lists[name]:
        leaks = [
            f"{image} has the same content as an image of {held_out[key]}"
            for image in (images_of(dict(record)) if record is not None else ())
            for key in _keys(image, images)
            if key in held_out
        ]
        result.append(leaks[0] if leaks else None)
    return result


def _keys(image: str, images: Mapping[str, ImageStats]) -> tuple[str | bytes, ...]:
    stats = images.get(image)
    return (image, stats.digest) if stats is not None and stats.problem is None else (image,)
