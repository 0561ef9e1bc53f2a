"""Grounding: heat maps, boxes ranked by them, and their accuracy (paper section 5, official ``Grounding.py``).

Boxes are x, y, width, height in pixels of the picture.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from albef.config import GroundingConfig
from albef.data.images import open_image, to_pixels
from albef.data.schema import SchemaError, read_list
from albef.evaluation.encode import evaluating, words_of
from albef.model.albef import ALBEF
from albef.model.gradcam import heat_map

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

Box = Sequence[float]


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


def iou(first: Box, second: Box) -> float:
    """Intersection over union, corners counted as pixels (the official ``computeIoU``)."""
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right = min(first[0] + first[2], second[0] + second[2]) - 1
    bottom = min(first[1] + first[3], second[1] + second[3]) - 1
    inner = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0.0
    return inner / (first[2] * first[3] + second[2] * second[3] - inner)


def box_scores(heat: NDArray[np.floating[Any]], boxes: Sequence[Box]) -> NDArray[np.float64]:
    """Heat within each box over the square root of its area; an integral image serves all boxes.

    Args:
        heat: ``(height, width)`` of the picture.
    """
    height, width = heat.shape
    integral = np.zeros((height + 1, width + 1))
    integral[1:, 1:] = heat.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    array = np.asarray([box[:4] for box in boxes], dtype=np.float64)
    x0, y0 = array[:, 0].astype(int).clip(0, width), array[:, 1].astype(int).clip(0, height)
    x1 = (array[:, 0] + array[:, 2]).astype(int).clip(0, width)
    y1 = (array[:, 1] + array[:, 3]).astype(int).clip(0, height)
    inside = integral[y1, x1] - integral[y0, x1] - integral[y1, x0] + integral[y0, x0]
    scores: NDArray[np.float64] = inside / np.sqrt(array[:, 2] * array[:, 3])
    return scores


def upsample(heat: torch.Tensor, width: int, height: int) -> NDArray[np.float32]:
    """A map ``(G, G)`` at the size of the picture: bicubic ``(height, width)``."""
    large = F.interpolate(heat[None, None].float(), size=(height, width), mode="bicubic", align_corners=False)
    result: NDArray[np.float32] = large[0, 0].cpu().numpy()
    return result


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
        large = upsample(heat, width, height)
        best = int(box_scores(large, proposals).argmax())
        chosen.append(best)
        hits.append(iou(proposals[best], box) >= 0.5)
        y, x = np.unravel_index(int(large.argmax()), large.shape)
        points.append(box[0] <= x < box[0] + box[2] and box[1] <= y < box[1] + box[3])
    metrics = {"accuracy": float(np.mean(hits)), "pointing": float(np.mean(points))}
    for part in sorted(set(split.parts) - {""}):
        metrics[f"accuracy_{part}"] = float(np.mean([h for h, p in zip(hits, split.parts, strict=True) if p == part]))
    return GroundingResult(metrics, torch.stack(maps).numpy(), chosen)
