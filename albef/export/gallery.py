"""Encodes what retrieval searches, with the exported graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from albef.config import Config
from albef.data.images import open_image, to_pixels
from albef.data.tokenizer import Encoder
from albef.serving import contract, gallery

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Floats = NDArray[np.floating[Any]]


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    from tqdm import tqdm

    with tqdm(total=len(items), desc="gallery", unit="row", disable=None) as bar:
        for start in range(0, len(items), size):
            yield items[start : start + size]
            bar.update(len(items[start : start + size]))


def write_gallery(
    folder: Path,
    config: Config,
    sessions: dict[str, InferenceSession],
    origin: dict[str, str],
    encoder: Encoder,
    rows: list[dict[str, Any]],
    images: Path,
) -> None:
    """Encode every image and every distinct caption of ``rows`` with the exported graphs."""
    size = config.serve.max_batch_size
    words = config.tasks.retrieval.train
    names = list(dict.fromkeys(row["image"] for row in rows))
    captions = list(dict.fromkeys(text for row in rows for text in row["caption"]))
    pixels = sessions[contract.VISION].get_inputs()[0].shape[2]

    def encode_images() -> Iterator[tuple[Floats, Floats]]:
        for batch in _batches(names, size):
            arrays = np.stack([to_pixels(open_image(images / name), pixels) for name in batch])
            outputs = [contract.IMAGE_EMBEDS, contract.IMAGE_FEAT]
            embeds, features = sessions[contract.VISION].run(outputs, {contract.PIXEL_VALUES: arrays})
            yield embeds, features

    def encode_captions() -> Iterator[tuple[Floats, Floats, NDArray[np.int64]]]:
        for batch in _batches(captions, size):
            ids, mask = encoder.encode_batch(batch, max_tokens=words.max_tokens, max_words=words.max_words)
            feeds = {contract.INPUT_IDS: ids, contract.ATTENTION_MASK: mask}
            embeds, features = sessions[contract.TEXT].run([contract.TEXT_EMBEDS, contract.TEXT_FEAT], feeds)
            yield embeds, features, mask

    manifest = gallery.Manifest(origin[contract.HASH_KEY], origin[contract.TOKENIZER_KEY], names, captions)
    gallery.write(folder, manifest, encode_images(), encode_captions(), config.serve.gallery)
