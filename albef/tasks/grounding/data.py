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
    """Expressions with their images, true boxes, and a detector's proposals for each image."""

    images: list[Path]
    names: list[str]
    texts: list[str]
    boxes: list[Box]
    proposals: list[list[Box]]
    parts: list[str]
    """Part of the test set of each expression, such as testA and testB; empty without parts."""

    @classmethod
    def read(cls, path: Path, boxes: Path, image_root: Path) -> GroundingSet:
        """Read a ``grounding_val`` or ``grounding_test`` list and its boxes.

        Raises:
            SchemaError: If an expression has no true box, or its image has no proposals.
        """
        try:
            known = json.loads(boxes.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SchemaError(f"{boxes}: cannot read the boxes ({error})") from error
        records = read_list(path)
        for row, record in enumerate(records):
            if str(record["ref_id"]) not in known["refs"]:
                raise SchemaError(f"{path}, row {row}, ref_id: {record['ref_id']!r} has no box in {boxes}")
            if not known["proposals"].get(record["image"]):
                raise SchemaError(f"{path}, row {row}, image: {record['image']!r} has no proposals in {boxes}")
        refs: list[dict[str, Any]] = [known["refs"][str(r["ref_id"])] for r in records]
        return cls(
            [image_root / r["image"] for r in records],
            [r["image"] for r in records],
            [r["text"] for r in records],
            [ref["box"] for ref in refs],
            [known["proposals"][r["image"]] for r in records],
            [str(ref.get("split", "")) for ref in refs],
        )
