"""Building and changing the gallery that retrieval searches (`albef.index.index` says what it consists of)."""

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

from albef.data.files import new_folder, write_text
from albef.index import faiss_index, index, segments
from albef.index.index import Collection, Gallery, GalleryError, Manifest, Part, Rows, Segment
from albef.index.segments import Batch

SEGMENT_ROWS = 4096
"""Rows of a segment: what an interrupted change loses at the most."""
_PLAN = "plan.json"


@dataclass(frozen=True)
class Encoders:
    """The model of a gallery.

    Args:
        images: Encodes picture files.
        captions: Encodes texts.
        batch_size: Of one call of either.
    """

    model_hash: str
    tokenizer_hash: str
    images: Callable[[Sequence[Path]], Batch]
    captions: Callable[[Sequence[str]], Batch]
    batch_size: int


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One change at a time; the lock goes with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise GalleryError(f"{folder}: another process is changing this gallery") from error
        yield


def build(
    folder: Path,
    encoders: Encoders,
    pictures: Mapping[str, Path],
    captions: Sequence[str],
    dtype: str,
    exact_below: int = faiss_index.EXACT_BELOW,
) -> Manifest:
    """Write a gallery of pictures (files by id) and captions, in place of the one there may be.

    Raises:
        GalleryError: If there is nothing to search.
        ImageError: If a picture cannot be read. The gallery stays as it was, here and below.
    """
    if not pictures and not captions:
        raise GalleryError(f"{folder}: a gallery needs at least one image or one caption")
    with _locked(folder):
        try:
            generation = index.read_manifest(folder).generation
        except GalleryError:
            generation = 0
        empty = Manifest(encoders.model_hash, encoders.tokenizer_hash, dtype, generation, Part(), Part())
        return _Change(folder, encoders, empty, exact_below).apply(pictures, list(dict.fromkeys(captions)))


def add(
    folder: Path,
    encoders: Encoders,
    pictures: Mapping[str, Path],
    captions: Sequence[str],
    exact_below: int = faiss_index.EXACT_BELOW,
) -> Manifest:
    """Add pictures and captions. A picture whose id is there takes its place; a caption that is there is left alone.

    Raises:
        GalleryError: If the gallery is of another model.
        ImageError: If a picture cannot be read.
    """
    with _locked(folder):
        opened = Gallery(folder).check(encoders.model_hash, encoders.tokenizer_hash)
        known = names(opened.captions)
        new = [text for text in dict.fromkeys(captions) if text not in known]
        replaced = [row for key, row in names(opened.images).items() if key in pictures]
        return _Change(folder, encoders, opened.manifest, exact_below).apply(pictures, new, replaced)


def remove(
    folder: Path, pictures: Sequence[str], captions: Sequence[str] = (), exact_below: int = faiss_index.EXACT_BELOW
) -> Manifest:
    """Take pictures out by their ids, and captions by their text.

    Raises:
        GalleryError: If one is not there, or nothing would be left.
    """
    with _locked(folder):
        opened = Gallery(folder)
        gone: list[list[int]] = []
        for what, wanted, known in (
            ("image", pictures, names(opened.images)),
            ("caption", captions, names(opened.captions)),
        ):
            unknown = [key for key in wanted if key not in known]
            if unknown:
                more = f" (nor {len(unknown) - 1} more)" if len(unknown) > 1 else ""
                raise GalleryError(f"{folder}: no {what} {unknown[0]!r} in this gallery{more}")
            gone.append(sorted({known[key] for key in wanted}))
        if sum(map(len, gone)) == len(opened.images) + len(opened.captions):
            raise GalleryError(f"{folder}: nothing would be left of this gallery")
        return _Change(folder, None, opened.manifest, exact_below).apply({}, [], *gone)


def names(collection: Collection) -> dict[str, int]:
    """The rows that count, by id."""
    return {collection.name(int(row)): int(row) for row in collection.rows}


@dataclass(frozen=True)
class _Next:
    """The images or the captions after a change, but for their index.

    Args:
        opened: As they were before.
        removed, added: Rows that leave the index, and that come into it.
    """

    opened: Collection
    part: Part
    removed: Rows
    added: Rows

    @property
    def rows(self) -> Rows:
        """All rows that count."""
        return np.union1d(np.setdiff1d(self.opened.rows, self.removed), self.added)


class _Change:
    """One change of a gallery: new segments first, then indices, then the manifest."""

    def __init__(self, folder: Path, encoders: Encoders | None, old: Manifest, exact_below: int) -> None:
        self.folder, self.encoders, self.old, self.exact_below = folder, encoders, old, exact_below
        self.generation = old.generation + 1

    def apply(
        self,
        pictures: Mapping[str, Path],
        captions: Sequence[str],
        gone_images: Sequence[int] = (),
        gone_captions: Sequence[int] = (),
    ) -> Manifest:
        """Make the change; returns the manifest after it."""
        if not (pictures or captions or gone_images or gone_captions):
            return self.old
        self._resume(pictures, captions)
        new: dict[str, list[Segment]] = {kind: [] for kind in index.KINDS}
        if self.encoders:
            encode = self.encoders.images
            new["images"] = self._encoded("images", list(pictures), lambda ids: encode([pictures[i] for i in ids]))
            new["captions"] = self._encoded("captions", list(captions), self.encoders.captions)
        images = self._next("images", new["images"], gone_images)
        texts = self._next("captions", new["captions"], gone_captions)
        name = f"index-{self.generation}"
        with new_folder(self.folder / name) as aside:
            manifest = replace(
                self.old,
                generation=self.generation,
                images=replace(self._index("images", images, texts, aside), index=name),
                captions=replace(self._index("captions", texts, images, aside), index=name),
            )
        write_text(self.folder / index.MANIFEST, json.dumps(asdict(manifest), indent=1) + "\n")
        self._sweep(manifest)
        (self.folder / _PLAN).unlink()
        return manifest

    def _resume(self, pictures: Mapping[str, Path], captions: Sequence[str]) -> None:
        """Keep the segments of the same change if it was interrupted; drop those of another one."""
        digest = hashlib.sha256(f"{self.old.model_hash} {self.old.dtype} {self.generation}".encode())
        for key, path in pictures.items():
            state = path.stat() if path.is_file() else None
            digest.update(f"{key}\0{state and (state.st_size, state.st_mtime_ns)}\0".encode())
        digest.update("\0".join(captions).encode())
        plan = self.folder / _PLAN
        if not plan.is_file() or plan.read_text(encoding="utf-8") != digest.hexdigest():
            self._sweep(self.old)
            write_text(plan, digest.hexdigest())

    def _encoded(self, kind: str, ids: Sequence[str], encode: Callable[[Sequence[str]], Batch]) -> list[Segment]:
        """Encode new rows, a segment at a time; those of an interrupted run are there already."""
        from tqdm import tqdm

        assert self.encoders is not None
        size, first, made = self.encoders.batch_size, getattr(self.old, kind).next, []
        with tqdm(total=len(ids), desc=f"gallery: {kind}", unit="row", disable=None) as bar:
            for at in range(0, len(ids), SEGMENT_ROWS):
                keys = ids[at : at + SEGMENT_ROWS]
                segment = Segment(f"{kind}-{self.generation}-{at // SEGMENT_ROWS}", first + at, len(keys))
                if not (self.folder / segment.name).is_dir():
                    batches = (encode(keys[start : start + size]) for start in range(0, len(keys), size))
                    segments.write(self.folder, segment, keys, batches, self.old.dtype)
                made.append(segment)
                bar.update(len(keys))
        return made

    def _next(self, kind: str, new: list[Segment], gone: Sequence[int]) -> _Next:
        """Segments after the change: those that nobody needs go, those mostly in vain are thinned out."""
        part: Part = getattr(self.old, kind)
        opened = Collection(self.folder, kind, part)
        stay = np.setdiff1d(opened.rows, np.array(gone, dtype=np.int64))
        kept, moved, removed = [], [], [np.array(gone, dtype=np.int64)]
        after = part.next + sum(segment.rows for segment in new)
        for segment in part.segments:
            mine = stay[(stay >= segment.first) & (stay < segment.first + segment.rows)]
            if len(mine) > segment.rows // 2:
                kept.append(segment)
            elif len(mine):
                copy = Segment(f"{kind}-{self.generation}-from-{segment.first}", after, len(mine))
                segments.copy(self.folder, copy, opened, mine, self.old.dtype)
                moved.append(copy)
                removed.append(mine)
                after += len(mine)
        added = [np.arange(segment.first, segment.first + segment.rows) for segment in (*new, *moved)]
        return _Next(
            opened,
            replace(part, segments=(*kept, *new, *moved), next=after),
            np.concatenate(removed),
            np.concatenate([np.empty(0, dtype=np.int64), *added]),
        )

    def _index(self, kind: str, change: _Next, other: _Next, target: Path) -> Part:
        """Write the index of images or captions. The features of the others are what will be searched with."""
        import faiss

        rows = change.rows
        if not len(rows):
            return replace(change.part, count=0, index_bytes=0, search="exact", trained_on=0)
        features = self._features(kind, change)
        others = "captions" if kind == "images" else "images"

        def queries() -> faiss_index.Floats:
            return self._features(others, other)(other.rows) if len(other.rows) else features(rows)

        part = change.part
        if change.opened.part.count:
            index = faiss.read_index(str(self.folder / part.index / f"{kind}.faiss"))
            old = faiss_index.Index(index, part.search, part.trained_on)
            made = faiss_index.change(
                old,
                change.removed,
                change.added,
                features(change.added),
                lambda: (features(rows), rows),
                queries,
                self.exact_below,
            )
        else:
            made = faiss_index.build(features(rows), rows, queries(), self.exact_below)
        np.save(target / f"{kind}.npy", rows)
        path = target / f"{kind}.faiss"
        faiss.write_index(made.index, str(path))
        size = path.stat().st_size
        return replace(part, count=len(rows), index_bytes=size, search=made.search, trained_on=made.trained_on)

    def _features(self, kind: str, change: _Next) -> Callable[[Rows], faiss_index.Floats]:
        """Reads features of rows after the change, whose index is still to be made."""
        return Collection(self.folder, kind, replace(change.part, count=0)).features

    def _sweep(self, current: Manifest) -> None:
        """Remove what neither the manifest nor the one before names: a reader may be about to open that."""
        parts = [part for manifest in (current, self.old) for part in (manifest.images, manifest.captions)]
        wanted = {name for part in parts for name in (part.index, *(segment.name for segment in part.segments))}
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in wanted:
                shutil.rmtree(path)
