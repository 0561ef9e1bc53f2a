"""The gallery: what retrieval searches, encoded ahead of time. NumPy and faiss only; it travels with the repository.

I = images, C = captions, N = image tokens, T = tokens of all captions, W = width, P = projection width, k = answers.

Embeddings stay on disk and are memory-mapped; captions are stored without padding, one after the other. The features
lie in exact inner-product indices (faiss ``IndexFlatIP``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

FORMAT = "albef-gallery-1"
MANIFEST = "gallery.json"


class GalleryError(ValueError):
    """A gallery is damaged or belongs to another model."""


@dataclass(frozen=True)
class Manifest:
    """What a gallery says of itself; hashes are those of the graphs that encoded it."""

    model_hash: str
    tokenizer_hash: str
    image_ids: list[str]
    caption_ids: list[str]
    format: str = FORMAT


def _rows(path: Path, parts: Iterable[Floats], count: int, dtype: str) -> None:
    """Write arrays one after the other as one ``.npy`` of ``count`` rows, never holding more than one."""
    target, start = None, 0
    for part in parts:
        if target is None:
            target = np.lib.format.open_memmap(str(path), mode="w+", dtype=dtype, shape=(count, *part.shape[1:]))
        target[start : start + len(part)] = part
        start += len(part)
    if target is None or start != count:
        raise GalleryError(f"{path}: {start} rows, expected {count}")
    target.flush()


def _write_index(path: Path, features: Floats) -> None:
    import faiss

    index = faiss.IndexFlatIP(features.shape[1])
    index.add(np.ascontiguousarray(features, dtype=np.float32))
    faiss.write_index(index, str(path))


def write(
    folder: Path,
    manifest: Manifest,
    images: Iterable[tuple[Floats, Floats]],
    captions: Iterable[tuple[Floats, Floats, NDArray[np.int64]]],
    dtype: str,
) -> None:
    """Write a gallery into an existing folder.

    Args:
        images: Batches of embeddings ``(b, N, W)`` and features ``(b, P)``.
        captions: Batches of embeddings ``(b, L, W)``, features ``(b, P)`` and 0/1 masks ``(b, L)``.
        dtype: Of the stored embeddings: float32, or float16 for half the size.

    Raises:
        GalleryError: If there is nothing to search or the batches do not add up to the ids.
    """
    if not manifest.image_ids or not manifest.caption_ids:
        raise GalleryError(f"{folder}: a gallery needs at least one image and one caption")
    image_features: list[Floats] = []

    def image_embeds() -> Iterable[Floats]:
        for embeds, features in images:
            image_features.append(features)
            yield embeds

    _rows(folder / "image_embeds.npy", image_embeds(), len(manifest.image_ids), dtype)
    _write_index(folder / "images.faiss", np.concatenate(image_features))
    flat, lengths, caption_features = [], [], []
    for embeds, features, mask in captions:
        flat.append(embeds[mask.astype(bool)].astype(dtype))
        lengths.extend(mask.sum(axis=1).tolist())
        caption_features.append(features)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if len(lengths) != len(manifest.caption_ids):
        raise GalleryError(f"{folder}: {len(lengths)} encoded captions, expected {len(manifest.caption_ids)}")
    np.save(folder / "caption_embeds.npy", np.concatenate(flat))
    np.save(folder / "caption_starts.npy", starts)
    _write_index(folder / "captions.faiss", np.concatenate(caption_features))
    text = json.dumps(asdict(manifest), ensure_ascii=False, indent=0)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


class Gallery:
    """An opened gallery.

    Args:
        folder: As `write` left it.

    Raises:
        GalleryError: If a file is missing, damaged or does not fit the others.
    """

    def __init__(self, folder: Path) -> None:
        import faiss

        try:
            data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            self.manifest = Manifest(**data)
            self._images = faiss.read_index(str(folder / "images.faiss"))
            self._captions = faiss.read_index(str(folder / "captions.faiss"))
            self._image_embeds = np.load(folder / "image_embeds.npy", mmap_mode="r")
            self._caption_embeds = np.load(folder / "caption_embeds.npy", mmap_mode="r")
            self._starts = np.load(folder / "caption_starts.npy")
        except (OSError, ValueError, TypeError, RuntimeError) as error:  # faiss raises RuntimeError
            raise GalleryError(f"{folder}: not a readable gallery ({error})") from error
        if self.manifest.format != FORMAT:
            raise GalleryError(f"{folder}: format {self.manifest.format!r}, expected {FORMAT!r}")
        counts = {
            "images": [len(self.manifest.image_ids), self._images.ntotal, len(self._image_embeds)],
            "captions": [len(self.manifest.caption_ids), self._captions.ntotal, len(self._starts) - 1],
            "caption tokens": [int(self._starts[-1]), len(self._caption_embeds)],
        }
        for what, numbers in counts.items():
            if len(set(numbers)) != 1:
                raise GalleryError(f"{folder}: the files disagree on the number of {what}: {numbers}")

    def search_images(self, features: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
        """The ``k`` images nearest to text features ``(n, P)``, best first: similarities and rows, both ``(n, k)``."""
        return _search(self._images, features, k)

    def search_captions(self, features: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
        """The ``k`` captions nearest to image features ``(n, P)``, as `search_images`."""
        return _search(self._captions, features, k)

    def image_embeds(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings ``(n, N, W)`` of some images."""
        return np.asarray(self._image_embeds[np.asarray(rows)], dtype=np.float32)

    def caption_embeds(
        self, rows: Sequence[int] | NDArray[np.int64], step: int = 1
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Embeddings ``(n, L, W)`` and masks ``(n, L)`` of some captions, padded with zeros to the longest.

        Args:
            step: L is a multiple of this.
        """
        spans = [(int(self._starts[row]), int(self._starts[row + 1])) for row in rows]
        length = max((end - start for start, end in spans), default=0)
        length = -(-length // step) * step
        embeds = np.zeros((len(spans), length, self._caption_embeds.shape[1]), dtype=np.float32)
        mask = np.zeros((len(spans), length), dtype=np.int64)
        for row, (start, end) in enumerate(spans):
            embeds[row, : end - start] = self._caption_embeds[start:end]
            mask[row, : end - start] = 1
        return embeds, mask


def _search(index: Any, features: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
    scores, rows = index.search(np.ascontiguousarray(features, dtype=np.float32), min(k, index.ntotal))
    return scores, rows


def top(scores: Floats, k: int) -> NDArray[np.int64]:
    """Positions of the ``k`` largest of ``scores`` ``(n,)``, best first; equal ones keep their order."""
    return np.argsort(-scores, kind="stable")[:k].astype(np.int64)
