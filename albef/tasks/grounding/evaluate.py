"""Evaluation of grounding by Grad-CAM heat maps (paper section 5, official ``Grounding.py``).

Boxes are x, y, width, height in pixels of the image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from albef import distributed
from albef.data.files import new_folder
from albef.data.images import ImageSource, StoredImage, load_image, to_bytes
from albef.data.lists import Rows
from albef.data.schema import SchemaError
from albef.inference.boxes import Box, box_scores, iou, upsample
from albef.inference.encode import evaluating, loaded, words_of
from albef.inference.gradcam import heat_map
from albef.models.albef import ALBEF
from albef.tasks.grounding.spec import GroundingConfig, default_block
from albef.tasks.grounding.word_maps import word_maps
from albef.tasks.job import Job, spaced

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


@dataclass(frozen=True)
class GroundingSet:
    """Expressions with their images, true boxes and detector proposals.

    Args:
        images: Image of each expression.
        names: Path of this image as written in the list.
        boxes: True box of each expression.
        proposals: Proposals for the image of each expression.
        parts: Part of the test set of each expression, such as testA or testB; empty if there are none.
    """

    images: list[StoredImage]
    names: list[str]
    texts: list[str]
    boxes: list[Box]
    proposals: list[list[Box]]
    parts: list[str]

    @classmethod
    def of(cls, rows: Rows, boxes: Path) -> GroundingSet:
        """Return the split of a ``grounding_val`` or ``grounding_test`` list.

        Args:
            boxes: File of the true boxes and the proposals.

        Raises:
            SchemaError: If an expression has no true box, or its image has no proposals.
        """
        try:
            annotations = json.loads(boxes.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SchemaError(f"{boxes}: cannot read the boxes ({error})") from error
        records = list(rows)
        for row, record in enumerate(records):
            if str(record["ref_id"]) not in annotations["refs"]:
                raise SchemaError(f"{rows.name}, row {row}, ref_id: {record['ref_id']!r} has no box in {boxes}")
            if not annotations["proposals"].get(record["image"]):
                raise SchemaError(f"{rows.name}, row {row}, image: {record['image']!r} has no proposals in {boxes}")
        refs: list[dict[str, Any]] = [annotations["refs"][str(r["ref_id"])] for r in records]
        return cls(
            [image for row, record in enumerate(records) for image in rows.images(row, record)],
            [r["image"] for r in records],
            [r["text"] for r in records],
            [ref["box"] for ref in refs],
            [annotations["proposals"][r["image"]] for r in records],
            [str(ref.get("split", "")) for ref in refs],
        )


BOXES_FILE = "grounding_boxes.json"
"""True boxes and proposals, next to the lists."""

Mode = Literal["itm", "itc"]
_MODES: tuple[Mode, ...] = ("itm", "itc")
_THRESHOLDS = [round(0.1 * step, 1) for step in range(1, 10)]


@dataclass(frozen=True)
class GroundingResult:
    """Metrics, heat maps and chosen proposals.

    Args:
        maps: Heat map ``(G, G)`` of each expression.
        chosen: Index of the chosen proposal of each expression.
    """

    metrics: dict[str, float]
    maps: NDArray[np.float32]
    chosen: list[int]


def evaluate(model: ALBEF, split: GroundingSet, encoder: Encoder, config: GroundingConfig) -> GroundingResult:
    """Locate the expressions of a split.

    Metrics are ``accuracy`` (IoU of at least 0.5 with the true box), ``accuracy_PART`` of each part of the test set,
    and ``pointing`` (hottest pixel within the true box).
    """
    maps, sizes = heat_maps(model, split.images, split.texts, encoder, config, config.train.num_workers)
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
    return GroundingResult(metrics, maps, chosen)


def _pixels_and_sizes(images: Sequence[ImageSource], size: int) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Load images as bytes ``(B, 3, size, size)``, and their width and height."""
    decoded = [load_image(image) for image in images]
    return torch.from_numpy(np.stack([to_bytes(image, size) for image in decoded])), [image.size for image in decoded]


def heat_maps(
    model: ALBEF,
    images: Sequence[ImageSource],
    texts: Sequence[str],
    encoder: Encoder,
    config: GroundingConfig,
    workers: int = 0,
) -> tuple[NDArray[np.float32], list[tuple[int, int]]]:
    """Return heat maps ``(B, G, G)`` of texts, and width and height of their images.

    The ranks of a process group share the work.

    Args:
        images: Image of each text.
        workers: Processes that load images.
    """
    results: dict[int, tuple[NDArray[np.float32], tuple[int, int]]] = {}
    settings = config.evaluate
    batches = distributed.batches(len(texts), settings.batch_size)
    sources = [[images[row] for row in rows] for rows in batches]
    batches_of_pixels = loaded(partial(_pixels_and_sizes, size=model.config.image_size), sources, workers)
    with evaluating(model, config.train) as device:
        for rows, (pixels, sizes) in zip(batches, batches_of_pixels, strict=True):
            ids, mask = words_of([texts[row] for row in rows], encoder, config.train, device)
            heat = heat_map(model, pixels.to(device), ids, mask, settings.mode, settings.block).float()
            if settings.mode == "itm":  # a mean over all tokens, which would depend on the padding of the batch
                heat *= mask.shape[1] / mask.sum(dim=1)[:, None, None]
            results |= zip(rows, zip(heat.cpu().numpy(), sizes, strict=True), strict=True)
    merged = distributed.merge(results)
    ordered = [merged[row] for row in range(len(texts))]
    return np.stack([heat for heat, _ in ordered]), [size for _, size in ordered]


def with_mode(config: GroundingConfig, model: ALBEF, mode: Mode) -> GroundingConfig:
    """Return ``config`` with a mode at its default block.

    It is returned unchanged if it already has that mode.
    """
    if config.evaluate.mode == mode:
        return config
    return replace(config, evaluate=replace(config.evaluate, mode=mode, block=default_block(model.config, mode)))


def run(job: Job) -> None:
    """Write ``metrics.json``, ``plots/iou.csv``, ``shown/examples.json`` and a figure per example in ``shown/maps``.

    Both modes are evaluated; metrics of the one not selected by the parameters have its name as prefix. ``chance`` is
    the accuracy of a random proposal.
    """
    split = GroundingSet.of(job.test_rows(), job.lists.folder / BOXES_FILE)
    config = job.config.tasks.grounding
    selected = config.evaluate.mode
    metrics: dict[str, float] = {}
    rows: list[tuple[object, ...]] = []
    results: dict[str, GroundingResult] = {}
    for mode in _MODES:
        results[mode] = evaluate(job.model, split, job.encoder, with_mode(config, job.model, mode))
        metrics |= {name if mode == selected else f"{mode}_{name}": v for name, v in results[mode].metrics.items()}
        overlaps = _overlaps(split, results[mode].chosen)
        rows += [(mode, str(threshold), float((overlaps >= threshold).mean())) for threshold in _THRESHOLDS]
    metrics["chance"] = float(
        np.mean(
            [
                np.mean([iou(proposal, box) >= 0.5 for proposal in proposals])
                for box, proposals in zip(split.boxes, split.proposals, strict=True)
            ]
        )
    )
    job.write_csv("iou.csv", "mode,threshold,accuracy", rows)
    if distributed.rank():
        return
    example_rows = spaced(len(split.texts))
    block = with_mode(config, job.model, "itm").evaluate.block
    with new_folder(job.out / "shown" / "maps") as folder:
        for row in example_rows:
            word_maps(
                job,
                split.images[row],
                split.texts[row],
                split.boxes[row],
                split.proposals[row][results[selected].chosen[row]],
                block,
            ).save(folder / f"{row:06}.png")
    job.write_json(
        "shown/examples.json",
        {"mode": selected, "examples": [_example(split, results[selected], row) for row in example_rows]},
    )
    job.write_metrics(metrics)


def _overlaps(split: GroundingSet, chosen: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    pairs = zip(split.proposals, chosen, split.boxes, strict=True)
    return np.array([iou(proposals[best], box) for proposals, best, box in pairs])


def _example(split: GroundingSet, result: GroundingResult, row: int) -> dict[str, object]:
    chosen = split.proposals[row][result.chosen[row]]
    heat = result.maps[row].astype(float)
    return {
        "image": split.names[row],
        "text": split.texts[row],
        "box": list(split.boxes[row][:4]),
        "chosen": list(chosen[:4]),
        "proposals": [list(box[:4]) for box in split.proposals[row]],
        "iou": round(iou(chosen, split.boxes[row]), 4),
        "map": (heat / max(heat.max(), 1e-12)).round(4).tolist(),
        "words": f"maps/{row:06}.png",
    }
