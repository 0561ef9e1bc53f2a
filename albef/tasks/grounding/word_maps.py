"""Heat maps of the single words of an expression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from albef.data.images import open_image, to_pixels
from albef.inference.encode import words_of
from albef.inference.gradcam import itm_map
from albef.tasks.grounding.boxes import upsample
from albef.tasks.grounding.data import GroundingSet
from albef.tasks.grounding.overlay import framed, overlay, strip
from albef.tasks.job import Job

_SIDE = 192  # pixels of the longer side of a panel
TRUE, CHOSEN = "#1a7f37", "#d1242f"
"""Colors of the true and the chosen box."""


def tokens_of_words(tokens: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Return the words of WordPiece tokens with the positions of their tokens; special tokens are skipped."""
    words: list[tuple[str, list[int]]] = []
    for place, token in enumerate(tokens):
        if token.startswith("##") and words:
            word, places = words[-1]
            words[-1] = (word + token[2:], [*places, place])
        elif not (token.startswith("[") and token.endswith("]") and len(token) > 2):
            words.append((token, [place]))
    return words


def word_maps(job: Job, split: GroundingSet, row: int, chosen: int, block: int) -> Image.Image:
    """Draw the image with true and chosen box, then one panel per word: Grad-CAM of the match, mean over its tokens.

    In the last fusion layer only [CLS] reaches the ITM head and words have zero gradient, so the layer before it is the
    last one used.

    Args:
        row: Row of ``split``.
        chosen: Chosen proposal.
        block: Fusion layer.
    """
    config = job.config.tasks.grounding
    image = _resized(split.images[row])
    # Not as in evaluation: one text alone, in full precision.
    job.model.eval()
    pixels = torch.from_numpy(to_pixels(open_image(split.images[row]), job.model.config.image_size))[None]
    ids, mask = words_of([split.texts[row]], job.encoder, config.train, job.model.device)
    block = min(block, max(0, job.model.config.text.fusion_layers - 2))
    maps = itm_map(job.model, pixels.to(job.model.device), ids, mask, block)[0]
    scale = image.width / open_image(split.images[row]).width
    boxes = [(split.proposals[row][chosen], CHOSEN), (split.boxes[row], TRUE)]
    panels = [("", framed(image, [([scale * value for value in box[:4]], colour) for box, colour in boxes]))]
    tokens = [str(job.encoder.tokenizer.id_to_token(index)) for index in ids[0].tolist()]
    for word, places in tokens_of_words(tokens):
        panels.append((word, overlay(image, upsample(maps[places].mean(dim=0).numpy(), *image.size))))
    return strip(panels)


def _resized(path: Path) -> Image.Image:
    image = open_image(path)
    scale = _SIDE / max(image.size)
    size = tuple(max(1, round(scale * side)) for side in image.size)
    return image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
