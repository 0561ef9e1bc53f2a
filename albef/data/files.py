"""Atomic writes of JSON lists and folders."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from albef.io import write_file


def format_rows(records: Iterable[Any]) -> str:
    """Format records as a JSON list with one record per line."""
    return "[\n" + ",\n".join(map(dump, records)) + "\n]\n"


def dump(record: Any) -> str:
    """Format a record as JSON on one line."""
    text = json.dumps(record, ensure_ascii=False)
    # JSON can escape a lone surrogate, which UTF-8 cannot encode; such records stay escaped.
    return text if _encodable(text) else json.dumps(record)


def _encodable(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def write_list(path: Path, records: Any) -> dict[str, Any]:
    """Write a list (or another JSON value) atomically.

    Returns:
        Its number of ``rows`` and the ``sha256`` of the file.
    """
    text = format_rows(records) if isinstance(records, list) else json.dumps(records, ensure_ascii=False) + "\n"
    write_file(path, text)
    return {"rows": len(records), "sha256": hashlib.sha256(text.encode()).hexdigest()}


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``path`` if the block succeeds.

    Those of processes that were killed are removed; an old folder that such a process had moved away comes back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        pid = left.name.removeprefix(f".{path.name}.").removesuffix(".old")
        if not pid.isdecimal() or Path("/proc", pid).exists():
            continue
        if left.suffix == ".old" and not path.exists():
            os.replace(left, path)
        else:
            shutil.rmtree(left, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
