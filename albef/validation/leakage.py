"""Pictures that training must not see because an evaluation uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from albef.data.schema import images_of
from albef.validation.image_stats import Picture

_EVALUATION = ("_val", "_test")


def guards(name: str) -> tuple[str, ...]:
    """The suffixes and tasks whose evaluation lists a list must not share pictures with, as list names.

    Pretraining must keep away from every evaluation, a train list from those of its own task, and val from test.
    """
    tasks = ("retrieval", "vqa", "ve", "nlvr", "grounding")
    if name == "pretrain":
        return tuple(task + split for task in tasks for split in _EVALUATION)
    task, _, split = name.rpartition("_")
    return {"train": (f"{task}_val", f"{task}_test"), "val": (f"{task}_test",)}.get(split, ())


def leaks(
    name: str, lists: Mapping[str, Sequence[Mapping[str, Any] | None]], pictures: Mapping[str, Picture]
) -> list[str | None]:
    """For every record of list ``name``, where an evaluation uses its picture; None where none does.

    Args:
        lists: Sound records of every list, None in place of a malformed one.
        pictures: Facts by path; pictures with the same pixels are the same under any path.
    """
    taken: dict[str | bytes, str] = {}
    for other in guards(name):
        for row, record in enumerate(lists.get(other, ())):
            for image in images_of(dict(record)) if record is not None else ():
                for key in _keys(image, pictures):
                    taken.setdefault(key, f"{other}.json, row {row}")
    found: list[str | None] = []
    for record in lists[name]:
        hits = [
            f"{image} is the picture of {taken[key]}"
            for image in (images_of(dict(record)) if record is not None else ())
            for key in _keys(image, pictures)
            if key in taken
        ]
        found.append(hits[0] if hits else None)
    return found


def _keys(image: str, pictures: Mapping[str, Picture]) -> tuple[str | bytes, ...]:
    fact = pictures.get(image)
    return (image, fact.digest) if fact is not None and fact.problem is None else (image,)
