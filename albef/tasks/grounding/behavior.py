"""Grounding under behavioral tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from albef.data.lists import Rows
from albef.inference.boxes import best_box, iou
from albef.tasks import texts
from albef.tasks.behavior import Case, Turned
from albef.tasks.grounding.evaluate import BOXES_FILE, GroundingSet, heat_maps

_SAME_BOX = 0.5  # IoU


class Behavior(Turned):
    """Grounding: the best proposal."""

    task = "grounding"
    turn = ("other thing", "another object for 'the dog right of the cat' than for 'the cat left of the dog'")
    refers = True

    def read(self, rows: Rows) -> list[Case]:
        """Return all expressions."""
        split = GroundingSet.of(rows, self.lists.folder / BOXES_FILE)
        columns = zip(split.images, split.names, split.texts, split.boxes, split.proposals, strict=True)
        return [Case(0, (image,), (name,), text, box, tuple(boxes)) for image, name, text, box, boxes in columns]

    def predict(self, cases: Sequence[Case]) -> list[Any]:
        """Return the indices of the proposals."""
        images, sentences = [case.images[0] for case in cases], [case.text for case in cases]
        maps, sizes = heat_maps(self.model, images, sentences, self.encoder, self.config)
        columns = zip(maps, sizes, cases, strict=True)
        return [best_box(heat, *size, [box[:4] for box in case.boxes]) for heat, size, case in columns]

    def right(self, case: Case, prediction: Any) -> bool:
        """Return whether the proposal overlaps with the true box."""
        return iou(case.boxes[prediction], case.truth) >= _SAME_BOX

    def same(self, case: Case, first: Any, second: Any) -> bool:
        """Return whether the proposals overlap."""
        return iou(case.boxes[first], case.boxes[second]) >= _SAME_BOX

    def turned(self, case: Case) -> Case | None:
        """Refer to the other thing of a relation."""
        text = texts.inverted(case.text)
        return None if text is None else replace(case, text=text)

    def shown(self, prediction: Any) -> str:
        """Return the number of the proposal."""
        return f"proposal {prediction}"
