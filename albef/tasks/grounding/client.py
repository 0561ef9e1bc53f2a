"""Client of the grounding endpoint: requests, answers, command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from albef.inference.boxes import iou, upsample
from albef.serving.requests import (
    GRAY_PIXEL,
    Array,
    Asker,
    Grounded,
    ImageInput,
    InvalidRequestError,
    Request,
    image_and_texts,
)
from albef.tasks.grounding import spec

if TYPE_CHECKING:
    from albef.data.lists import Lists

MIN_IOU = 0.5
"""IoU with the true box above which an answer is correct (paper section 6.2)."""


def request(
    image: ImageInput, expressions: Sequence[str], boxes: Sequence[Sequence[float]] | None = None
) -> Request[Grounded]:
    """Build a request with expressions about an image.

    Args:
        boxes: Proposals x, y, width, height to choose from; by default, the box is derived from the heat map.

    Raises:
        InvalidRequestError: If the file cannot be read, or the boxes are not rows of four numbers.
    """
    arrays = image_and_texts(image, expressions)
    if boxes is not None:
        proposals = np.asarray(boxes, dtype=np.float32)
        if proposals.ndim != 2 or proposals.shape[1] != 4:
            raise InvalidRequestError(f"boxes have shape {proposals.shape}, expected rows of x, y, width, height")
        arrays[spec.BOXES] = np.stack([proposals] * len(expressions))
    return Request(spec.ENDPOINT, arrays, _read)


def _read(outputs: dict[str, Array]) -> list[Grounded]:
    return [
        Grounded(heat, (float(box[0]), float(box[1]), float(box[2]), float(box[3])))
        for heat, box in zip(outputs[spec.HEAT_MAP], outputs[spec.BOX], strict=True)
    ]


def from_arguments(args: argparse.Namespace) -> Request[Grounded]:
    """Build the request of ``albef ask grounding``."""
    return request(args.image, [args.text])


def format_answer(answer: Grounded) -> str:
    """Format box and heat map as text; hotter patches have denser characters."""
    x, y, width, height = answer.box
    shades = " .:-=+*#%@"
    top = float(answer.heat.max())
    heat = answer.heat.clip(min=0) / top if top > 0 else answer.heat * 0
    rows = ["".join(2 * shades[round(float(value) * (len(shades) - 1))] for value in row) for row in heat]
    frame = "+" + "--" * answer.heat.shape[1] + "+"
    return "\n".join(
        [f"box: x {x:.0f}, y {y:.0f}, width {width:.0f}, height {height:.0f}", frame, *(f"|{r}|" for r in rows), frame]
    )


def save(args: argparse.Namespace, answer: Grounded) -> None:
    """Write the file that ``--save-overlay`` names.

    Raises:
        ImageError: If the image cannot be read.
        ValueError: If the name of the file has no suffix of an image.
    """
    if args.save_overlay is None:
        return
    from albef.data.images import load_image
    from albef.tasks.grounding.overlay import CHOSEN, framed, overlay

    image = load_image(args.image)
    heat = overlay(image, upsample(answer.heat, *image.size))
    framed(heat, [(answer.box, CHOSEN)]).save(args.save_overlay)


def probe(text: str | None, image: ImageInput | None, k: int) -> Request[Grounded]:
    """Build the request of a probe (`albef.serving.probes`)."""
    return request(image or GRAY_PIXEL, [text or ""])


def score(row: dict[str, Any], data: Lists, client: Asker) -> dict[str, list[float]]:
    """Return the scores of the answers to a row of the test list, by metric."""
    annotations = _annotations(data.folder / "grounding_boxes.json")
    image = data.images.find(row["image"]).read()
    (answer,) = client.ask(request(image, [row["text"]], annotations["proposals"][row["image"]]))
    return {"grounding accuracy": [float(iou(answer.box, annotations["refs"][str(row["ref_id"])]["box"]) >= MIN_IOU)]}


@cache
def _annotations(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
