"""Grounding: accuracy of boxes by both kinds of heat map, and what each word of a few expressions looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from albef.config import GroundingConfig
from albef.data.files import new_folder
from albef.data.images import open_image, to_pixels
from albef.inference.encode import words_of
from albef.inference.gradcam import itm_map
from albef.models.albef import ALBEF
from albef.tasks.grounding.boxes import iou, upsample
from albef.tasks.grounding.evaluate import GroundingResult, GroundingSet, evaluate
from albef.tasks.grounding.overlay import framed, overlay, strip
from albef.tasks.job import Job, spaced

Mode = Literal["itm", "itc"]
_MODES: tuple[Mode, ...] = ("itm", "itc")
_THRESHOLDS = [round(0.1 * step, 1) for step in range(1, 10)]
_SHOWN = 192  # pixels of the longer side of a panel
TRUE, CHOSEN = "#1a7f37", "#d1242f"
"""Colours of the true box and of the chosen one."""


def usual_block(model: ALBEF, mode: Mode) -> int:
    """Where the official code looks, as a share of the depth: fusion layer 2 of 6, image block 8 of 12."""
    if mode == "itm":
        return model.config.text.fusion_layers // 3
    return 2 * model.config.vision.depth // 3


def with_mode(config: GroundingConfig, model: ALBEF, mode: Mode) -> GroundingConfig:
    """``config`` with another mode, at the usual block; as it is where ``mode`` is its own."""
    if config.evaluate.mode == mode:
        return config
    return replace(config, evaluate=replace(config.evaluate, mode=mode, block=usual_block(model, mode)))


def run(job: Job) -> None:
    """Write ``metrics.json``, ``iou.csv``, ``shown/examples.json`` and one picture an example below ``shown/maps``.

    Metrics of the mode that the parameters do not name have it as their prefix. ``chance`` is the accuracy of a
    proposal drawn at random.
    """
    split = GroundingSet.read(job.lists / "grounding_test.json", job.lists / "grounding_boxes.json", job.images)
    config = job.config.tasks.grounding
    own = config.evaluate.mode
    metrics: dict[str, float] = {}
    rows: list[tuple[object, ...]] = []
    results: dict[str, GroundingResult] = {}
    for mode in _MODES:
        results[mode] = evaluate(job.model, split, job.encoder, with_mode(config, job.model, mode))
        metrics |= {name if mode == own else f"{mode}_{name}": v for name, v in results[mode].metrics.items()}
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
    shown = spaced(len(split.texts))
    with new_folder(job.out / "shown" / "maps") as folder:
        for row in shown:
            word_maps(job, split, row, results[own].chosen[row]).save(folder / f"{row:06}.png")
    job.write_json(
        "shown/examples.json", {"mode": own, "examples": [_example(split, results[own], row) for row in shown]}
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


def tokens_of_words(tokens: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Words with the places of their pieces, from the WordPiece tokens of a text; [CLS] and its like are no words."""
    words: list[tuple[str, list[int]]] = []
    for place, token in enumerate(tokens):
        if token.startswith("##") and words:
            word, places = words[-1]
            words[-1] = (word + token[2:], [*places, place])
        elif not (token.startswith("[") and token.endswith("]") and len(token) > 2):
            words.append((token, [place]))
    return words


def word_maps(job: Job, split: GroundingSet, row: int, chosen: int) -> Image.Image:
    """The picture with true and chosen box, then one panel a word: Grad-CAM of the match, mean over its pieces.

    In the last fusion layer [CLS] alone reaches the match and all words are cold, so the layer before it is the last
    that is looked at.
    """
    config = with_mode(job.config.tasks.grounding, job.model, "itm")
    picture = _shown(split.images[row])
    # Not as in evaluation: one text alone, in full precision.
    job.model.eval()
    pixels = torch.from_numpy(to_pixels(open_image(split.images[row]), job.model.config.image_size))[None]
    ids, mask = words_of([split.texts[row]], job.encoder, config.train, job.model.device)
    block = min(config.evaluate.block, max(0, job.model.config.text.fusion_layers - 2))
    maps = itm_map(job.model, pixels.to(job.model.device), ids, mask, block)[0]
    scale = picture.width / open_image(split.images[row]).width
    boxes = [(split.proposals[row][chosen], CHOSEN), (split.boxes[row], TRUE)]
    panels = [("", framed(picture, [([scale * value for value in box[:4]], colour) for box, colour in boxes]))]
    tokens = [str(job.encoder.tokenizer.id_to_token(index)) for index in ids[0].tolist()]
    for word, places in tokens_of_words(tokens):
        panels.append((word, overlay(picture, upsample(maps[places].mean(dim=0).numpy(), *picture.size))))
    return strip(panels)


def _shown(path: Path) -> Image.Image:
    picture = open_image(path)
    scale = _SHOWN / max(picture.size)
    size = tuple(max(1, round(scale * side)) for side in picture.size)
    return picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)
