"""Ids and metadata of an index, an SQLite file.

Its tables of images and captions have the columns ``row`` (row number) and ``id`` (id of an image, text of a caption),
and one column per property. A reader opens the file as immutable, so it needs neither locks nor a writable folder.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import numpy as np

from albef.index.metadata import Metadata, MetadataError
from albef.index.segments import Rows

FILE = "items.db"
KINDS = ("images", "captions")
MAX_WHERE_BYTES = 2000
SECONDS = 2.0
"""CPU time that a filter may take."""
FUNCTIONS = {"abs", "coalesce", "glob", "instr", "length", "like", "lower", "round", "substr", "trim", "upper"}
"""Functions of a filter; ``like`` and ``glob`` are operators as well."""
_LIMITS = {
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 1,
}
_STEPS = 500
"""Steps of SQLite's virtual machine between looks at the clock."""


class FilterError(ValueError):
    """The filter is not a condition on the columns, or takes too long."""


def create(path: Path, old: Path | None) -> sqlite3.Connection:
    """Open a new file for writing, as a copy of ``old`` if there is one."""
    if old is not None:
        path.write_bytes(old.read_bytes())
    db = sqlite3.connect(path)
    # The folder is new, and moved to its place when it is complete.
    db.execute("PRAGMA journal_mode = OFF")
    if old is None:
        for kind in KINDS:
            db.execute(f"CREATE TABLE {kind} (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE) STRICT")
    return db


def read(path: Path) -> sqlite3.Connection:
    """Open a file for reading."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True, check_same_thread=False)


def insert(db: sqlite3.Connection, kind: str, items: Iterable[tuple[int, str]]) -> None:
    """Insert row numbers and ids; an id that exists keeps its metadata."""
    text = f"INSERT INTO {kind} (row, id) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET row = excluded.row"
    db.executemany(text, items)


def columns(db: sqlite3.Connection, kind: str) -> dict[str, str]:
    """Return the columns that a filter may use, with their types."""
    return {name: declared for _, name, declared, *_ in db.execute(f"PRAGMA table_info({kind})") if name != "row"}


def rows(db: sqlite3.Connection, kind: str, where: str | None = None) -> Rows:
    """Return row numbers in use, ascending without ``where``."""
    text = f"SELECT row FROM {kind} " + ("ORDER BY row" if where is None else f"WHERE ({where})")
    return np.fromiter((row for (row,) in db.execute(text)), dtype=np.int64)


def set_metadata(db: sqlite3.Connection, metadata: Metadata) -> None:
    """Set the metadata of images and captions; other properties of theirs stay.

    Raises:
        MetadataError: If an id is not in the index, or a value does not have the type of an existing column.
    """
    unknown = dict.fromkeys(metadata.rows)
    try:
        for kind in KINDS:
            existing = {name.lower() for name in columns(db, kind)}
            for name, declared in metadata.types.items():
                if name.lower() not in existing:
                    db.execute(f'ALTER TABLE {kind} ADD COLUMN "{name}" {declared}')
            for key in [key for (key,) in db.execute(f"SELECT id FROM {kind}") if key in metadata.rows]:
                names = ", ".join(f'"{name}" = ?' for name in metadata.types)
                db.execute(f"UPDATE {kind} SET {names} WHERE id = ?", (*metadata.rows[key].values(), key))
                unknown.pop(key, None)
    except sqlite3.Error as error:
        raise MetadataError(f"{metadata.name}: a column has another type than in the index ({error})") from error
    if unknown:
        more = f" ({len(unknown) - 1} more are missing)" if len(unknown) > 1 else ""
        raise MetadataError(f"{metadata.name}: no image or caption {next(iter(unknown))!r} in this index{more}")


def select(path: Path, kind: str, where: str, seconds: float = SECONDS) -> Rows:
    """Return the rows that an untrusted SQL condition selects.

    SQLite compiles the condition with access to one table and `FUNCTIONS` alone, and stops when the time is over.

    Raises:
        FilterError: If it is not a condition on the columns, or takes too long.
    """
    if len(where.encode()) > MAX_WHERE_BYTES:
        raise FilterError(f"has {len(where.encode())} bytes, expected at most {MAX_WHERE_BYTES}")
    with closing(read(path)) as db:
        known, selects, end = columns(db, kind), [kind], time.thread_time() + seconds

        def authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
            allowed = (
                (action == sqlite3.SQLITE_SELECT and bool(selects) and bool(selects.pop()))  # the outer one
                or (action == sqlite3.SQLITE_READ and first == kind)
                or (action == sqlite3.SQLITE_FUNCTION and second in FUNCTIONS)
            )
            return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

        for limit, value in _LIMITS.items():
            db.setlimit(limit, value)
        db.set_authorizer(authorize)
        db.set_progress_handler(lambda: int(time.thread_time() > end), _STEPS)
        try:
            return rows(db, kind, where)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            if time.thread_time() > end:
                raise FilterError(f"takes longer than {seconds:g} s; compare fewer columns") from error
            names = ", ".join(f"{name} ({declared})" for name, declared in known.items())
            raise FilterError(f"is not a condition on the columns {names}: {error}") from error
