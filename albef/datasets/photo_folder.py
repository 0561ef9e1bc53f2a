"""Folder of images with captions: a table beside them, or a text file for each image."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from albef.data.images import SUFFIXES
from albef.data.schema import SchemaError

TABLES = (".csv", ".tsv", ".jsonl")
FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "path")
CAPTION_COLUMNS = ("text", "caption", "captions", "txt", "description", "title")


def table(folder: Path) -> Path | None:
    """Return the file of captions in a folder, or None if there is none.

    It is ``metadata.csv`` or ``metadata.jsonl`` (the convention of Hugging Face's imagefolder), or the only file of
    these kinds.

    Raises:
        SchemaError: If there are several.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLES)
    named = [path for path in found if path.stem == "metadata"]
    chosen = named or found
    if len(chosen) > 1:
        raise SchemaError(f"{folder}: several files of captions, {', '.join(p.name for p in chosen)}; leave one")
    return chosen[0] if chosen else None


def images(folder: Path) -> list[str]:
    """Return the image files below a folder, as sorted relative paths."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def column(names: Sequence[str], given: str | None, usual: Sequence[str], what: str, place: object) -> str:
    """Return the name of a column, as given or by its usual names.

    Raises:
        SchemaError: If there is none.
    """
    wanted = [given] if given is not None else list(usual)
    by_lower_case = {name.strip().lower(): name for name in reversed(names)}
    found = [by_lower_case[name.lower()] for name in wanted if name.lower() in by_lower_case]
    if not found:
        raise SchemaError(
            f"{place}: no column {' or '.join(wanted)} of the {what}; found {', '.join(names) or 'none'}: set "
            f"prepare.pairs.{what} to one of them"
        )
    return found[0]


def rows(folder: Path, image: str | None = None, caption: str | None = None) -> Iterator[dict[str, str]]:
    """Yield ``image``, a path below the folder, and ``caption`` of each pair.

    Args:
        image, caption: Columns of the table; None finds them by name.

    Raises:
        SchemaError: If there are no captions, or a column is not found.
    """
    path = table(folder)
    if path is None:
        yield from _texts(folder)
        return
    for number, row in enumerate(_table_rows(path)):
        if number == 0:
            names = list(row)
            image = column(names, image, FILE_COLUMNS, "image", path)
            caption = column(names, caption, CAPTION_COLUMNS, "caption", path)
        values = row.get(str(caption))
        for value in values if isinstance(values, list) else [values]:
            yield {"image": str(row.get(str(image)) or ""), "caption": value if isinstance(value, str) else ""}


def _texts(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the images that have a text file of the same name; each line is a caption."""
    found = False
    for path in images(folder):
        text = (folder / path).with_suffix(".txt")
        if text.is_file():
            found = True
            lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
            yield from ({"image": path, "caption": line.strip()} for line in lines if line.strip())
    if not found:
        raise SchemaError(
            f"{folder}: no captions; expected metadata.csv or metadata.jsonl with the columns file_name and text, or a "
            "text file beside each image (a.jpg, a.txt)"
        )


def _table_rows(path: Path) -> Iterator[dict[str, object]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".jsonl":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        row = json.loads(line)
                        if not isinstance(row, dict):
                            raise SchemaError(f"{path}, line {number}: expected a JSON object")
                        yield row
                return
            header = file.readline()
            file.seek(0)
            delimiter = max("\t;,", key=header.count)  # a comma if none occurs
            for record in csv.DictReader(file, delimiter=delimiter):
                yield {str(key): value for key, value in record.items() if key is not None}
    except json.JSONDecodeError as error:
        raise SchemaError(f"{path}, line {number}: not valid JSON ({error})") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SchemaError(f"{path}: cannot be read as UTF-8 text ({error})") from error
