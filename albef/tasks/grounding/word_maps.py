"""Heat maps of the single words of an expression."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from albef.data.images import ImageSource, load_image, to_pixels
from albef.inference.boxes import Box, upsample
from albef.inference.encode import words_of
from albef.inference.gradcam import itm_map
from albef.tasks.grounding.overlay import CHOSEN, TRUE, framed, overlay, strip
from albef.tasks.job import Job

_SIDE = 192  # longer side of a panel in pixels


def tokens_of_words(tokens: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Return words and their token positions from WordPiece tokens, without special tokens."""
    words: list[tuple[str, list[int]]] = []
    for position, token in enumerate(tokens):
        if token.startswith("##") and words:
            word, positions = words[-1]
            words[-1] = (word + token[2:], [*positions, position])
        elif not (token.startswith("[") and token.endswith("]") and len(token) > 2):
            words.append((token, [position]))
    return words


def word_maps(job: Job, source: ImageSource, text: str, true: Box, chosen: Box, block: int) -> Image.Image:
    """Draw the image with its boxes, and a heat map per word.

    A word's map is the mean Grad-CAM of the match logit over its tokens. In the last fusion layer only [CLS] reaches
    the ITM head and the gradient of words is zero, so ``block`` is limited to the layer before it.

    Args:
        source: The image.
        true, chosen: The true box and the chosen proposal.
        block: Fusion layer.
    """
    config = job.config.tasks.grounding
    original = load_image(source)
    image = _resized(original)
    # Unlike in evaluation, a single text in full precision.
    job.model.eval()
    pixels = torch.from_numpy(to_pixels(original, job.model.config.image_size))[None]
    ids, mask = words_of([text], job.encoder, config.train, job.model.device)
    block = min(block, max(0, job.model.config.text.fusion_layers - 2))
    maps = itm_map(job.model, pixels.to(job.model.device), ids, mask, block)[0]
    scale = image.width / original.width
    boxes = [(chosen, CHOSEN), (true, TRUE)]
    panels = [("", framed(image, [([scale * value for value in box[:4]], color) for box, color in boxes]))]
    tokens = [str(job.encoder.tokenizer.id_to_token(index)) for index in ids[0].tolist()]
    for word, positions in tokens_of_words(tokens):
        panels.append((word, overlay(image, upsample(maps[positions].mean(dim=0).numpy(), *image.size))))
    return strip(panels)


def _resized(image: Image.Image) -> Image.Image:
    scale = _SIDE / max(image.size)
    size = tuple(max(1, round(scale * side)) for side in image.size)
    return image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
