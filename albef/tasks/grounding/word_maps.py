"""Heat maps of the single words of an expression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from albef.data.images import ImageSource, load_image, to_pixels
from albef.inference.boxes import Box, upsample
from albef.inference.encode import words_of
from albef.inference.gradcam import itm_map
from albef.models.albef import ALBEF
from albef.tasks.grounding.overlay import CHOSEN, TRUE, framed, overlay, resized, strip
from albef.tasks.grounding.spec import GroundingConfig
from albef.tasks.job import Job

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


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
    """Draw the image with its boxes, and a heat map per word (`word_panels`)."""
    original = load_image(source)
    image = resized(original)
    scale = image.width / original.width
    boxes = [(chosen, CHOSEN), (true, TRUE)]
    framed_image = framed(image, [([scale * value for value in box[:4]], color) for box, color in boxes])
    words = word_panels(job.model, job.encoder, job.config.tasks.grounding, original, text, block)
    return strip([("", framed_image), *words])


def word_panels(
    model: ALBEF, encoder: Encoder, config: GroundingConfig, original: Image.Image, text: str, block: int
) -> list[tuple[str, Image.Image]]:
    """Return each word of a text with its heat map over the image.

    A word's map is the mean Grad-CAM of the match logit over its tokens. In the last fusion layer only [CLS] reaches
    the ITM head and the gradient of words is zero, so ``block`` is limited to the layer before it.

    Args:
        block: Fusion layer.
    """
    image = resized(original)
    # Unlike in evaluation, a single text in full precision.
    model.eval()
    pixels = torch.from_numpy(to_pixels(original, model.config.image_size))[None]
    ids, mask = words_of([text], encoder, config.train, model.device)
    block = min(block, max(0, model.config.text.fusion_layers - 2))
    maps = itm_map(model, pixels.to(model.device), ids, mask, block)[0]
    tokens = [str(encoder.tokenizer.id_to_token(index)) for index in ids[0].tolist()]
    return [
        (word, overlay(image, upsample(maps[positions].mean(dim=0).cpu().numpy(), *image.size)))
        for word, positions in tokens_of_words(tokens)
    ]
