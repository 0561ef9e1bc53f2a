"""Images of lists as tables, a part of them in each.

A part that was written is not written again while its files are the same, also after the process was killed. Threads
read the files of one part after another. Ray Data writes several parts at a time if many images are shrunk, and at any
size on the cluster at ``RAY_ADDRESS``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from albef import ray_data
from albef.data import images
from albef.data.files import new_folder
from albef.data.images import ImageError, read_bytes
from albef.data.lists import IMAGE_FOLDER
from albef.data.tables import SUFFIX, ImageWriter
from albef.datasets import tables
from albef.io import file_hash, write_file
from albef.progress import Progress

ROWS = 50_000
"""Images of a part."""
RAY_ROWS = 300_000
"""Images to shrink from which on Ray Data does it; it takes about 10 seconds to start."""
_DONE = "part.json"


@dataclass(frozen=True)
class Part:
    """Successive images, whose tables are a folder.

    Args:
        root: Folder that paths start from.
        max_side: Longer side, in pixels, that larger images are shrunk to.
        folder: Folder of the tables. The file of this name that ends in ``.json`` has the paths, ascending, and whether
            the image may be shrunk.
        code: Hash of the code that decides the content.
    """

    root: Path
    max_side: int | None
    folder: Path
    code: str

    def digest(self) -> str | None:
        """Return the hash of the content, None if it is not written yet."""
        done = self._done()
        return None if done is None else str(done["sha256"])

    def tables(self) -> list[Path]:
        """Return the files of the tables."""
        return sorted((self.folder / IMAGE_FOLDER).glob(f"*{SUFFIX}"))

    def _done(self) -> dict[str, Any] | None:
        path = self.folder / _DONE
        done = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        # A run that was killed while it moved them leaves fewer.
        return done if done is not None and done["tables"] == len(self.tables()) else None

    def write(self, count: Callable[[], object] = lambda: None) -> None:
        """Write the tables, unless this was done with the same files.

        Args:
            count: Called for each image.
        """
        names = json.loads(self.folder.with_suffix(".json").read_text(encoding="utf-8"))
        files = self._files(names)
        done = self._done()
        if done is not None and done["files"] == files:
            for _ in names:
                count()
            return
        digest = hashlib.sha256()
        with new_folder(self.folder) as folder:
            with ImageWriter(folder / IMAGE_FOLDER) as writer:
                for (path, _), data in tables.in_threads(self._content, names):
                    digest.update(tables.digest_line(path, data))
                    writer.add(path, data)
                    count()
            count_of_tables = len(list((folder / IMAGE_FOLDER).iterdir()))
            done = {"files": files, "tables": count_of_tables, "sha256": digest.hexdigest()}
            write_file(folder / _DONE, json.dumps(done))

    def _files(self, names: Iterable[Any]) -> str:
        """Return a hash of what the content depends on, with sizes and times instead of bytes."""
        digest = hashlib.sha256(f"{self.code} {self.max_side}".encode())
        for path, shrink in names:
            try:
                found = os.stat(self.root / path)
                state: object = (found.st_size, found.st_mtime_ns)
            except (OSError, ValueError):
                state = None
            digest.update(f"{path}\0{shrink}\0{state}\n".encode(errors="surrogatepass"))
        return digest.hexdigest()

    def _content(self, image: tuple[str, bool]) -> bytes | None:
        path, shrink = image
        try:
            data = read_bytes(self.root / path)
        except ImageError:
            return None
        return data if self.max_side is None or not shrink else tables.shrink(data, self.max_side)


def write(found: Iterable[tuple[str, bool]], root: Path, max_side: int | None, work: Path, out: Path) -> dict[str, Any]:
    """Write images.

    Args:
        found: Paths, ascending, and whether the image may be shrunk.
        root: Folder that paths start from.
        max_side: Longer side, in pixels, that larger images are shrunk to.
        work: Folder of the parts, until all are complete.
        out: Folder of the tables to create.

    Returns:
        Number and hash of the images.
    """
    code = "".join(file_hash(Path(str(module.__file__))) for module in (images, tables))
    parts, total = list[Part](), 0
    rest = iter(found)
    work.mkdir(parents=True, exist_ok=True)
    while names := list(islice(rest, ROWS)):
        parts.append(Part(root.resolve(), max_side, work.resolve() / f"{len(parts):05}", code))
        write_file(parts[-1].folder.with_suffix(".json"), json.dumps(names))
        total += len(names)
    with Progress(total=total, description="images", unit="images") as progress:
        if parts and ((total >= RAY_ROWS and max_side is not None) or os.environ.get("RAY_ADDRESS")):
            for _ in ray_data.each(Part.write, parts):
                progress.update(min(ROWS, total - progress.n))
        else:
            for part in parts:
                part.write(progress.update)
    digest = hashlib.sha256("".join(str(part.digest()) for part in parts).encode()).hexdigest()
    if parts:
        out.mkdir(parents=True)
    else:
        ImageWriter(out).__exit__(None, None, None)
    for number, file in enumerate([file for part in parts for file in part.tables()]):
        shutil.move(file, out / f"{number:05}{SUFFIX}")
    shutil.rmtree(work)
    return {"count": total, "sha256": digest}
