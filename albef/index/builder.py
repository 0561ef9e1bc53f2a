"""Builds and updates an index; see `albef.index.index` for its files."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from albef.data.files import new_folder
from albef.data.images import StoredImage
from albef.index import faiss_index, items, segments
from albef.index import index as index_files
from albef.index.index import KINDS, ImageTextIndex, Manifest, Part
from albef.index.metadata import Metadata
from albef.index.segments import Batch, Rows, SearchIndexError, Segment, Segments
from albef.io import write_file
from albef.progress import Progress

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
    metadata: Metadata | None = None,
    exact_below: int = faiss_index.EXACT_BELOW,
) -> Manifest:
    """Build an index and replace an existing one.

    Args:
        images: Image files by id.

    Raises:
        SearchIndexError: If there are neither images nor captions, or an id of the metadata is not among them.
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
        new = {"images": list(images), "captions": list(dict.fromkeys(captions))}
        return _Change(folder, encoders, empty, exact_below).apply(images, new, {}, metadata)


def add(
    folder: Path,
    encoders: Encoders,
    images: Mapping[str, StoredImage],
    captions: Sequence[str],
    metadata: Metadata | None = None,
    exact_below: int = faiss_index.EXACT_BELOW,
) -> Manifest:
    """Add images and captions to an index.

    An image replaces an indexed one with the same id. Captions that are already indexed are skipped. Metadata may also
    be those of items that are already indexed.

    Raises:
        SearchIndexError: If another model encoded the index, or an id of the metadata is not in it.
        ImageError: If an image cannot be read; the index stays unchanged.
    """
    with _locked(folder):
        opened = ImageTextIndex(folder).check(encoders.model_hash, encoders.tokenizer_hash)
        known = set(opened.captions.ids(opened.captions.rows))
        new = {"images": list(images), "captions": [text for text in dict.fromkeys(captions) if text not in known]}
        return _Change(folder, encoders, opened.manifest, exact_below).apply(images, new, {}, metadata)


def remove(
    folder: Path, images: Sequence[str], captions: Sequence[str] = (), exact_below: int = faiss_index.EXACT_BELOW
) -> Manifest:
    """Remove images by id and captions by text.

    Raises:
        SearchIndexError: If an entry is not indexed, or the index would become empty.
    """
    removed = {"images": list(dict.fromkeys(images)), "captions": list(dict.fromkeys(captions))}
    with _locked(folder):
        opened = ImageTextIndex(folder)
        for kind, keys in removed.items():
            known = set(getattr(opened, kind).ids(getattr(opened, kind).rows))
            unknown = [key for key in keys if key not in known]
            if unknown:
                more = f" ({len(unknown) - 1} more are missing)" if len(unknown) > 1 else ""
                raise SearchIndexError(f"{folder}: no {kind[:-1]} {unknown[0]!r} in this index{more}")
        if sum(map(len, removed.values())) == len(opened.images) + len(opened.captions):
            raise SearchIndexError(f"{folder}: the removal would leave this index empty; keep an image or a caption")
        return _Change(folder, None, opened.manifest, exact_below).apply({}, {}, removed)


class _Change:
    """Change of an index; writes segments, then ids and faiss indices, then the manifest."""

    def __init__(self, folder: Path, encoders: Encoders | None, old: Manifest, exact_below: int) -> None:
        self.folder, self.encoders, self.old, self.exact_below = folder, encoders, old, exact_below
        self.generation = old.generation + 1

    def apply(
        self,
        images: Mapping[str, StoredImage],
        new: Mapping[str, Sequence[str]],
        removed: Mapping[str, Sequence[str]],
        metadata: Metadata | None = None,
    ) -> Manifest:
        """Apply the change and return the new manifest.

        Args:
            new, removed: Ids of images and captions, by kind.
        """
        if not (any(new.values()) or any(removed.values()) or metadata):
            return self.old
        self._resume(images, new)
        encoded = {kind: self._encode(kind, new.get(kind, ()), images) for kind in KINDS}
        # A new index has no folder of its generation before, an index that changes has.
        before = self.folder / self.old.folder / items.FILE if self.old.bytes else None
        with new_folder(self.folder / f"index-{self.generation}") as aside:
            with closing(items.create(aside / items.FILE, before)) as db:
                old_rows = {kind: items.rows(db, kind) for kind in KINDS}
                parts: dict[str, Any] = {
                    kind: self._part(db, kind, new.get(kind, ()), encoded[kind], removed.get(kind, ()))
                    for kind in KINDS
                }
                if metadata is not None:
                    items.set_metadata(db, metadata)
                rows = {kind: items.rows(db, kind) for kind in KINDS}
                db.commit()
            for kind in KINDS:
                self._write_index(kind, parts, old_rows[kind], rows, aside)
            size = segments.folder_bytes(aside)
        manifest = replace(self.old, generation=self.generation, bytes=size, **parts)
        write_file(self.folder / index_files.MANIFEST, json.dumps(asdict(manifest), indent=1) + "\n")
        self._remove_unused(manifest)
        (self.folder / _PLAN).unlink()
        return manifest

    def _resume(self, images: Mapping[str, StoredImage], new: Mapping[str, Sequence[str]]) -> None:
        """Keep segments of an interrupted run of the same change.

        Segments of any other change are removed.
        """
        digest = hashlib.sha256(f"{self.old.model_hash} {self.old.dtype} {self.generation}".encode())
        for key, image in images.items():
            digest.update(f"{key}\0{hashlib.sha256(image.read()).hexdigest()}\0".encode())
        digest.update("\0".join(new.get("captions", ())).encode())
        plan = self.folder / _PLAN
        if not plan.is_file() or plan.read_text(encoding="utf-8") != digest.hexdigest():
            self._remove_unused(self.old)
            write_file(plan, digest.hexdigest())

    def _encode(self, kind: str, ids: Sequence[str], images: Mapping[str, StoredImage]) -> list[Segment]:
        """Encode new rows segment by segment.

        Segments that an interrupted run has finished are skipped.
        """
        written: list[Segment] = []
        if self.encoders is None:
            return written
        encoders, size, first = self.encoders, self.encoders.batch_size, getattr(self.old, kind).next

        def encode(keys: Sequence[str]) -> Batch:
            return encoders.images([images[key] for key in keys]) if kind == "images" else encoders.captions(keys)

        with Progress(total=len(ids), description=f"index: {kind}", unit="rows") as bar:
            for at in range(0, len(ids), SEGMENT_ROWS):
                keys = ids[at : at + SEGMENT_ROWS]
                segment = Segment(f"{kind}-{self.generation}-{at // SEGMENT_ROWS}", first + at, len(keys))
                if not (self.folder / segment.name).is_dir():
                    batches = (encode(keys[start : start + size]) for start in range(0, len(keys), size))
                    segments.write(self.folder, segment, batches, self.old.dtype)
                written.append(self._sized(segment))
                bar.update(len(keys))
        return written

    def _sized(self, segment: Segment) -> Segment:
        return replace(segment, bytes=segments.folder_bytes(self.folder / segment.name))

    def _part(
        self, db: Connection, kind: str, ids: Sequence[str], new: Sequence[Segment], removed: Sequence[str]
    ) -> Part:
        """Update the rows in use and choose the segments after the change.

        Segments without rows in use are dropped, and those with at most half of their rows in use are compacted.
        """
        part: Part = getattr(self.old, kind)
        db.executemany(f"DELETE FROM {kind} WHERE id = ?", ((key,) for key in removed))
        items.insert(db, kind, enumerate(ids, part.next))
        rows, next_row, kept = items.rows(db, kind), part.next + len(ids), list(new)
        for segment in part.segments:
            used = rows[(rows >= segment.first) & (rows < segment.first + segment.rows)]
            if len(used) > segment.rows // 2:
                kept.append(segment)
            elif len(used):
                copy = Segment(f"{kind}-{self.generation}-from-{segment.first}", next_row, len(used))
                segments.copy(self.folder, copy, Segments(self.folder, [segment], self.old.dtype), used, self.old.dtype)
                kept.append(self._sized(copy))
                renumbered = enumerate(used.tolist(), next_row)
                db.executemany(f"UPDATE {kind} SET row = ? WHERE row = ?", renumbered)
                next_row += len(used)
        return Part(tuple(sorted(kept, key=lambda segment: segment.first)), next_row)

    def _write_index(
        self, kind: str, parts: Mapping[str, Part], before: Rows, rows: Mapping[str, Rows], target: Path
    ) -> None:
        """Write the faiss index of images or captions.

        Features of the other modality serve as sample queries.
        """
        import faiss

        if not len(rows[kind]):
            return
        readers = {each: Segments(self.folder, part.segments, self.old.dtype).features for each, part in parts.items()}
        others = [each for each in KINDS if each != kind and len(rows[each])] or [kind]
        old = self.folder / self.old.folder / f"{kind}.faiss"
        index = faiss_index.update(
            faiss.read_index(str(old)) if len(before) else None,
            before,
            rows[kind],
            readers[kind],
            lambda: readers[others[0]](faiss_index.sample(rows[others[0]])),
            self.exact_below,
        )
        faiss.write_index(index, str(target / f"{kind}.faiss"))

    def _remove_unused(self, current: Manifest) -> None:
        """Remove folders that no manifest names.

        The old manifest counts too, because a reader may be about to open its folders.
        """
        used = {manifest.folder for manifest in (current, self.old)}
        used |= {s.name for manifest in (current, self.old) for kind in KINDS for s in getattr(manifest, kind).segments}
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in used:
                shutil.rmtree(path)
