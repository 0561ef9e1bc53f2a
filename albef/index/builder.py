"""Builds and updates an index; see `albef.index.index` for its files."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from albef.data.files import new_folder
from albef.data.images import StoredImage
from albef.index import faiss_index, segments
from albef.index import index as index_files
from albef.index.faiss_index import FaissIndex
from albef.index.index import Collection, ImageTextIndex, Manifest, Part, Rows, SearchIndexError, Segment
from albef.index.segments import Batch
from albef.io import write_file

SEGMENT_ROWS = 4096
"""Rows per segment; an interrupted change encodes at most this many rows again."""
_PLAN = "plan.json"


@dataclass(frozen=True)
class Encoders:
    """Encoders that compute an index.

    Args:
        images: Encodes images.
        captions: Encodes texts.
        batch_size: Rows per call of either encoder.
    """

    model_hash: str
    tokenizer_hash: str
    images: Callable[[Sequence[StoredImage]], Batch]
    captions: Callable[[Sequence[str]], Batch]
    batch_size: int


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an index, which ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SearchIndexError(f"{folder}: another process is changing this index; try again later") from error
        yield


def build(
    folder: Path,
    encoders: Encoders,
    images: Mapping[str, StoredImage],
    captions: Sequence[str],
    dtype: str,
    exact_below: int = faiss_index.EXACT_BELOW,
) -> Manifest:
    """Build an index and replace an existing one.

    Args:
        images: Image files by id.

    Raises:
        SearchIndexError: If there are neither images nor captions.
        ImageError: If an image cannot be read; an existing index stays unchanged.
    """
    if not images and not captions:
        raise SearchIndexError(f"{folder}: an index needs at least one image or one caption")
    with _locked(folder):
        try:
            generation = index_files.read_manifest(folder).generation
        except SearchIndexError:
            generation = 0
        empty = Manifest(encoders.model_hash, encoders.tokenizer_hash, dtype, generation, Part(), Part())
        return _Change(folder, encoders, empty, exact_below).apply(images, list(dict.fromkeys(captions)))


def add(
    folder: Path,
    encoders: Encoders,
    images: Mapping[str, StoredImage],
    captions: Sequence[str],
    exact_below: int = faiss_index.EXACT_BELOW,
) -> Manifest:
    """Add images and captions to an index.

    An image replaces an indexed one with the same id. Captions that are already indexed are skipped.

    Raises:
        SearchIndexError: If another model encoded the index.
        ImageError: If an image cannot be read; the index stays unchanged.
    """
    with _locked(folder):
        opened = ImageTextIndex(folder).check(encoders.model_hash, encoders.tokenizer_hash)
        known = rows_by_id(opened.captions)
        new = [text for text in dict.fromkeys(captions) if text not in known]
        replaced = [row for key, row in rows_by_id(opened.images).items() if key in images]
        return _Change(folder, encoders, opened.manifest, exact_below).apply(images, new, replaced)


def remove(
    folder: Path, images: Sequence[str], captions: Sequence[str] = (), exact_below: int = faiss_index.EXACT_BELOW
) -> Manifest:
    """Remove images by id and captions by text.

    Raises:
        SearchIndexError: If an entry is not indexed, or the index would become empty.
    """
    with _locked(folder):
        opened = ImageTextIndex(folder)
        removed: list[list[int]] = []
        for kind, keys, known in (
            ("image", images, rows_by_id(opened.images)),
            ("caption", captions, rows_by_id(opened.captions)),
        ):
            unknown = [key for key in keys if key not in known]
            if unknown:
                more = f" ({len(unknown) - 1} more are missing)" if len(unknown) > 1 else ""
                raise SearchIndexError(f"{folder}: no {kind} {unknown[0]!r} in this index{more}")
            removed.append(sorted({known[key] for key in keys}))
        if sum(map(len, removed)) == len(opened.images) + len(opened.captions):
            raise SearchIndexError(f"{folder}: the removal would leave this index empty; keep an image or a caption")
        return _Change(folder, None, opened.manifest, exact_below).apply({}, [], *removed)


def rows_by_id(collection: Collection) -> dict[str, int]:
    """Return the row numbers in use by id."""
    return {collection.name(int(row)): int(row) for row in collection.rows}


@dataclass(frozen=True)
class _Update:
    """Images or captions after a change, before their faiss index is written.

    Args:
        opened: The collection before the change.
        removed, added: Rows that leave and enter the faiss index.
    """

    opened: Collection
    part: Part
    removed: Rows
    added: Rows

    @property
    def rows(self) -> Rows:
        """Row numbers in use after the change."""
        return np.union1d(np.setdiff1d(self.opened.rows, self.removed), self.added)


class _Change:
    """Change of an index; writes segments, then faiss indices, then the manifest."""

    def __init__(self, folder: Path, encoders: Encoders | None, old: Manifest, exact_below: int) -> None:
        self.folder, self.encoders, self.old, self.exact_below = folder, encoders, old, exact_below
        self.generation = old.generation + 1

    def apply(
        self,
        images: Mapping[str, StoredImage],
        captions: Sequence[str],
        removed_images: Sequence[int] = (),
        removed_captions: Sequence[int] = (),
    ) -> Manifest:
        """Apply the change and return the new manifest."""
        if not (images or captions or removed_images or removed_captions):
            return self.old
        self._resume(images, captions)
        new: dict[str, list[Segment]] = {kind: [] for kind in index_files.KINDS}
        if self.encoders:
            encode = self.encoders.images
            new["images"] = self._encode("images", list(images), lambda ids: encode([images[key] for key in ids]))
            new["captions"] = self._encode("captions", list(captions), self.encoders.captions)
        image_update = self._update("images", new["images"], removed_images)
        caption_update = self._update("captions", new["captions"], removed_captions)
        name = f"index-{self.generation}"
        with new_folder(self.folder / name) as aside:
            manifest = replace(
                self.old,
                generation=self.generation,
                images=replace(self._write_index("images", image_update, caption_update, aside), index=name),
                captions=replace(self._write_index("captions", caption_update, image_update, aside), index=name),
            )
        write_file(self.folder / index_files.MANIFEST, json.dumps(asdict(manifest), indent=1) + "\n")
        self._remove_unused(manifest)
        (self.folder / _PLAN).unlink()
        return manifest

    def _resume(self, images: Mapping[str, StoredImage], captions: Sequence[str]) -> None:
        """Keep segments of an interrupted run of the same change.

        Segments of any other change are removed.
        """
        digest = hashlib.sha256(f"{self.old.model_hash} {self.old.dtype} {self.generation}".encode())
        for key, image in images.items():
            digest.update(f"{key}\0{hashlib.sha256(image.read()).hexdigest()}\0".encode())
        digest.update("\0".join(captions).encode())
        plan = self.folder / _PLAN
        if not plan.is_file() or plan.read_text(encoding="utf-8") != digest.hexdigest():
            self._remove_unused(self.old)
            write_file(plan, digest.hexdigest())

    def _encode(self, kind: str, ids: Sequence[str], encode: Callable[[Sequence[str]], Batch]) -> list[Segment]:
        """Encode new rows segment by segment.

        Segments that an interrupted run has finished are skipped.
        """
        from tqdm import tqdm

        assert self.encoders is not None
        size, first = self.encoders.batch_size, getattr(self.old, kind).next
        written = []
        with tqdm(total=len(ids), desc=f"index: {kind}", unit="row", disable=None) as bar:
            for at in range(0, len(ids), SEGMENT_ROWS):
                keys = ids[at : at + SEGMENT_ROWS]
                segment = Segment(f"{kind}-{self.generation}-{at // SEGMENT_ROWS}", first + at, len(keys))
                if not (self.folder / segment.name).is_dir():
                    batches = (encode(keys[start : start + size]) for start in range(0, len(keys), size))
                    segments.write(self.folder, segment, keys, batches, self.old.dtype)
                written.append(segment)
                bar.update(len(keys))
        return written

    def _update(self, kind: str, new: list[Segment], removed_rows: Sequence[int]) -> _Update:
        """Choose the segments after the change.

        Segments without rows in use are dropped, and those with at most half of their rows in use are compacted.
        """
        part: Part = getattr(self.old, kind)
        opened = Collection(self.folder, kind, part)
        remaining = np.setdiff1d(opened.rows, np.array(removed_rows, dtype=np.int64))
        kept, compacted, removed = [], [], [np.array(removed_rows, dtype=np.int64)]
        next_row = part.next + sum(segment.rows for segment in new)
        for segment in part.segments:
            rows = remaining[(remaining >= segment.first) & (remaining < segment.first + segment.rows)]
            if len(rows) > segment.rows // 2:
                kept.append(segment)
            elif len(rows):
                copy = Segment(f"{kind}-{self.generation}-from-{segment.first}", next_row, len(rows))
                segments.copy(self.folder, copy, opened, rows, self.old.dtype)
                compacted.append(copy)
                removed.append(rows)
                next_row += len(rows)
        added = [np.arange(segment.first, segment.first + segment.rows) for segment in (*new, *compacted)]
        return _Update(
            opened,
            replace(part, segments=(*kept, *new, *compacted), next=next_row),
            np.concatenate(removed),
            np.concatenate([np.empty(0, dtype=np.int64), *added]),
        )

    def _write_index(self, kind: str, update: _Update, other: _Update, target: Path) -> Part:
        """Write the faiss index of images or captions.

        Args:
            other: The other modality, whose features serve as sample queries.
        """
        import faiss

        rows = update.rows
        if not len(rows):
            return replace(update.part, count=0, index_bytes=0, search="exact", trained_on=0)
        features = self._features(kind, update)
        other_kind = "captions" if kind == "images" else "images"

        def queries() -> faiss_index.Floats:
            return self._features(other_kind, other)(other.rows) if len(other.rows) else features(rows)

        part = update.part
        if update.opened.part.count:
            old = faiss.read_index(str(self.folder / part.index / f"{kind}.faiss"))
            new = faiss_index.change(
                FaissIndex(old, part.search, part.trained_on),
                update.removed,
                update.added,
                features(update.added),
                lambda: (features(rows), rows),
                queries,
                self.exact_below,
            )
        else:
            new = faiss_index.build(features(rows), rows, queries(), self.exact_below)
        np.save(target / f"{kind}.npy", rows)
        path = target / f"{kind}.faiss"
        faiss.write_index(new.index, str(path))
        size = path.stat().st_size
        return replace(part, count=len(rows), index_bytes=size, search=new.search, trained_on=new.trained_on)

    def _features(self, kind: str, update: _Update) -> Callable[[Rows], faiss_index.Floats]:
        """Return a reader for features of rows after the change."""
        # count=0: the faiss index of these segments does not exist yet.
        return Collection(self.folder, kind, replace(update.part, count=0)).features

    def _remove_unused(self, current: Manifest) -> None:
        """Remove folders that no manifest names.

        The old manifest counts too, because a reader may be about to open its folders.
        """
        parts = [part for manifest in (current, self.old) for part in (manifest.images, manifest.captions)]
        used = {name for part in parts for name in (part.index, *(segment.name for segment in part.segments))}
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in used:
                shutil.rmtree(path)
