"""Grounding: heat maps, boxes ranked by them, and their accuracy (paper section 5, official ``Grounding.py``).

Boxes are x, y, width, height in pixels of the picture.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from albef.config import GroundingConfig
from albef.data.images import open_image, to_pixels
from albef.data.schema import SchemaError, read_list
from albef.inference.encode import evaluating, words_of
from albef.inference.gradcam import heat_map
from albef.models.albef import ALBEF
from albef.tasks.grounding.boxes import Box, box_scores, iou, upsample

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


@dataclass(frozen=True)
class GroundingSet:
    """Expressions with their pictures, the true box of each, and a detector's boxes of its picture."""

    images: list[Path]
    names: list[str]
    texts: list[str]
    boxes: list[Box]
    proposals: list[list[Box]]
    parts: list[str]
    """Of the test set, such as testA and testB; empty where there are none."""

    @classmethod
    def read(cls, path: Path, boxes: Path, image_root: Path) -> GroundingSet:
        """Read a ``grounding_val`` or ``grounding_test`` list and its boxes.

        Raises:
            SchemaError: If an expression has no true box, or its picture no proposals.
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


@dataclass(frozen=True)
class GroundingResult:
    """Metrics; of every expression the map ``(G, G)`` and the proposal chosen by it."""

    metrics: dict[str, float]
    maps: NDArray[np.float32]
    chosen: list[int]


def evaluate(model: ALBEF, split: GroundingSet, encoder: Encoder, config: GroundingConfig) -> GroundingResult:
    """``accuracy``: chosen box with IoU of at least 0.5; ``pointing``: hottest pixel within the true box.

    Parts of the test set are also told apart, as ``accuracy_PART``.
    """
    maps: list[torch.Tensor] = []
    sizes: list[tuple[int, int]] = []
    step, look = config.evaluate.batch_size, config.evaluate
    with evaluating(model, config.train) as device:
        for start in range(0, len(split.texts), step):
            pictures = [open_image(path) for path in split.images[start : start + step]]
            sizes += [picture.size for picture in pictures]
            size = model.config.image_size
            pixels = torch.from_numpy(np.stack([to_pixels(picture, size) for picture in pictures])).to(device)
            ids, mask = words_of(split.texts[start : start + step], encoder, config.train, device)
            maps += heat_map(model, pixels, ids, mask, look.mode, look.block).float().cpu().unbind()
    chosen, hits, points = [], [], []
    for heat, (width, height), box, proposals in zip(maps, sizes, split.boxes, split.proposals, strict=True):
        large = upsample(heat.numpy(), width, height)
        best = int(box_scores(large, proposals).argmax())
        chosen.append(best)
        hits.append(iou(proposals[best], box) >= 0.5)
        y, x = np.unravel_index(int(large.argmax()), large.shape)
        points.append(box[0] <= x < box[0] + box[2] and box[1] <= y < box[1] + box[3])
    metrics = {"accuracy": float(np.mean(hits)), "pointing": float(np.mean(points))}
    for part in sorted(set(split.parts) - {""}):
        metrics[f"accuracy_{part}"] = float(np.mean([h for h, p in zip(hits, split.parts, strict=True) if p == part]))
    return GroundingResult(metrics, torch.stack(maps).numpy(), chosen)
