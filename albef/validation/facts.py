"""Facts of a prepared data set in Parquet files, a part of the rows in each.

A part that was written is not computed again, also after the process was killed. Without a cluster, threads compute the
parts of small data, and Ray Data those of large data; with ``RAY_ADDRESS`` set, Ray Data does it on that cluster.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from albef import ray_data
from albef.data.lists import IMAGE_FOLDER, file_of, names_in
from albef.data.schema import EXTRAS, SchemaError
from albef.data.tables import ImageTable, RecordTable
from albef.io import file_hash, write_file
from albef.progress import Progress
from albef.validation import image_facts, record_facts

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_ROWS, RECORD_ROWS = 5_000, 100_000
"""Rows of a part."""
RAY_ROWS = 300_000
"""Missing rows from which on Ray Data computes them; it takes about 10 seconds to start."""
_CODE = [f"data/{name}.py" for name in ("images", "schema", "text")]
_CODE += [f"validation/{name}.py" for name in ("image_facts", "perceptual_hash", "record_facts")]


@dataclass(frozen=True)
class Part:
    """Rows of a table whose facts are one file.

    Args:
        data: Output folder of `albef prepare`.
        name: Name of a list, or `IMAGE_FOLDER`.
        start: First row.
        stop: Row after the last one.
        file: Parquet file of the facts.
    """

    data: Path
    name: str
    start: int
    stop: int
    file: Path

    def write(self) -> None:
        """Compute the facts and write them atomically."""
        import pyarrow.parquet as pq

        version = self.file.parent.name
        if self.name == IMAGE_FOLDER:
            table = image_facts.of_rows(self.data, version, self.start, self.stop)
        else:
            table = record_facts.of_rows(self.data, version, self.name, self.start, self.stop)
        write_file(self.file, lambda file: pq.write_table(table, file))

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the facts, or some columns of them."""
        import pyarrow.parquet as pq

        return pq.read_table(self.file, columns=columns, partitioning=None)


class Facts:
    """Facts of all images and lists of a prepared data set.

    Args:
        data: Output folder of `albef prepare`.
        work_dir: Folder for the files until `move`. Those of the same rows and code are used again.

    Raises:
        SchemaError: If the data set has no manifest.
        TableError: If a table cannot be read.
    """

    def __init__(self, data: Path, work_dir: Path) -> None:
        self.data, self.names = data.resolve(), names_in(data)
        content, code = _manifest(data), _digest_of_code()
        # The facts of a list depend on its records, and on the answers or boxes that they refer to.
        others = [content["lists"].get(name) for name in EXTRAS]
        self.rows, self.parts = dict[str, int](), dict[str, list[Part]]()
        for name in (IMAGE_FOLDER, *self.names):
            images = name == IMAGE_FOLDER
            rows = len(ImageTable(data / name)) if images else len(RecordTable(file_of(data, name)))
            source = content["images"] if images else [name, content["lists"].get(name), content["images"], others]
            key = hashlib.sha256(json.dumps([source, code]).encode()).hexdigest()[:16]
            folder = work_dir.resolve() / f"facts-{name}-{key}"
            self.rows[name] = rows
            self.parts[name] = [
                Part(self.data, name, start, stop, folder / f"{start:010}.parquet")
                for start, stop in _ranges(rows, IMAGE_ROWS if images else RECORD_ROWS)
            ]

    def compute(self) -> None:
        """Write the parts that are missing."""
        missing = [part for parts in self.parts.values() for part in parts if not part.file.is_file()]
        rows = sum(part.stop - part.start for part in missing)
        with Progress(total=rows, description="facts", unit="rows") as progress:
            for part in _written(missing, rows):
                progress.update(part.stop - part.start)

    def move(self, out: Path) -> None:
        """Move the files to ``out/NAME/*.parquet``."""
        for name, parts in self.parts.items():
            (out / name).mkdir(parents=True)
            for part in parts:
                shutil.move(part.file, out / name / part.file.name)
            shutil.rmtree(parts[0].file.parent)


def _written(parts: list[Part], rows: int) -> Iterator[Part]:
    """Yield parts once they are written."""
    if parts and (rows >= RAY_ROWS or os.environ.get("RAY_ADDRESS")):
        yield from ray_data.each(Part.write, parts)
        return
    # Threads suffice, as Pillow and hashlib release the interpreter lock.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        yield from (part for part, _ in zip(parts, pool.map(Part.write, parts), strict=True))


def _ranges(rows: int, size: int) -> list[tuple[int, int]]:
    """Return first and last rows of parts; an empty table has one part."""
    return [(start, min(start + size, rows)) for start in range(0, max(rows, 1), size)]


def _manifest(data: Path) -> dict[str, dict[str, object]]:
    path = data / "manifest.json"
    try:
        manifest: dict[str, dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(manifest["lists"], dict) and manifest["images"]:
            return manifest
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SchemaError(f"{path}: not a manifest; write the data set with `albef prepare`") from error
    raise SchemaError(f"{path}: expected lists and images; write the data set with `albef prepare`")


def _digest_of_code() -> list[str]:
    """Return the hashes of the code that decides the facts."""
    package = Path(__file__).resolve().parents[1]
    return [file_hash(package / name) for name in _CODE]
