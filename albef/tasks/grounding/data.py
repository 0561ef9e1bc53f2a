"""Evaluation data of grounding.

Boxes are x, y, width, height in pixels of the image.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef.data.schema import SchemaError, read_list
from albef.tasks.grounding.boxes import Box


@dataclass(frozen=True)
class GroundingSet:
    """Expressions with their images, true boxes and detector proposals.

    Args:
        images: Path of the image of each expression.
        names: Path of this image as written in the list.
        boxes: True box of each expression.
        proposals: Proposals for the image of each expression.
        parts: Part of the test set of each expression, such as testA or testB; empty if there are none.
    """

    images: list[Path]
    names: list[str]
    texts: list[str]
    boxes: list[Box]
    proposals: list[list[Box]]
    parts: list[str]

    @classmethod
    def read(cls, path: Path, boxes: Path, image_root: Path) -> GroundingSet:
        """Read a ``grounding_val`` or ``grounding_test`` list and its boxes.

        Raises:
            SchemaError: If an expression has no true box, or its image has no proposals.
        """
        try:
            annotations = json.loads(boxes.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SchemaError(f"{boxes}: cannot read the boxes ({error})") from error
        records = read_list(path)
        for row, record in enumerate(records):
            if str(record["ref_id"]) not in annotations["refs"]:
                raise SchemaError(f"{path}, row {row}, ref_id: {record['ref_id']!r} has no box in {boxes}")
            if not annotations["proposals"].get(record["image"]):
                raise SchemaError(f"{path}, row {row}, image: {record['image']!r} has no proposals in {boxes}")
        refs: list[dict[str, Any]] = [annotations["refs"][str(r["ref_id"])] for r in records]
        return cls(
            [image_root / r["image"] for r in records],
            [r["image"] for r in records],
            [r["text"] for r in records],
            [ref["box"] for ref in refs],
            [annotations["proposals"][r["image"]] for r in records],
            [str(ref.get("split", "")) for ref in refs],
        )
