"""JSON lists and folders, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def rows(records: Iterable[Any]) -> str:
    """A JSON list with one record a line: small, and still readable in a diff."""
    return "[\n" + ",\n".join(map(_dump, records)) + "\n]\n"


def _dump(record: Any) -> str:
    text = json.dumps(record, ensure_ascii=False)
    # Half a surrogate pair, which JSON can escape, is no text that can be written as it is.
    return text if _writable(text) else json.dumps(record)


def _writable(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def write_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def write_list(path: Path, records: Any) -> dict[str, Any]:
    """Write a list (or another JSON value) atomically.

    Returns:
        Its ``rows`` and the ``sha256`` of the file.
    """
    text = rows(records) if isinstance(records, list) else json.dumps(records, ensure_ascii=False) + "\n"
    write_text(path, text)
    return {"rows": len(records), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def image_root(data: Path) -> Path:
    """The folder that image paths of the lists start from: ``data`` itself, unless its manifest names another one.

    Args:
        data: What `albef prepare` wrote; a folder without a manifest is its own root.

    Raises:
        ValueError: If the manifest is broken.
    """
    path = data / "manifest.json"
    if not path.is_file():
        return data
    try:
        root = json.loads(path.read_text(encoding="utf-8")).get("image_root", ".")
        return data if root == "." else data / root
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}, image_root: expected a path in a JSON object ({error})") from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder built aside that takes the place of ``path`` once the block ends without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.replace(path, old)
            os.replace(aside, path)
            shutil.rmtree(old)
        else:
            os.replace(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
