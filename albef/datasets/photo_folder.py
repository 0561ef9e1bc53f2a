"""Folder of images with captions: a table beside them, or a text file for each image."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from albef.data.images import SUFFIXES
from albef.data.schema import SchemaError
from albef.data.shards import column

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
    named = [path for path in found if path.stem.lower() == "metadata"]
    chosen = named or found
    if len(chosen) > 1:
        raise SchemaError(
            f"{folder}: several files of captions, {', '.join(p.name for p in chosen)}; leave one, or name one "
            "metadata.csv"
        )
    return chosen[0] if chosen else None


def rows(folder: Path, image: str | None = None, caption: str | None = None) -> Iterator[dict[str, str]]:
    """Yield ``image``, a path below the folder, and ``caption`` of each pair.

    Args:
        image, caption: Columns of the table; None finds them by name.

    Raises:
        SchemaError: If there are no captions, a column is not found, or an image is not below the folder.
    """
    path = table(folder)
    if path is None:
        yield from _texts(folder)
        return
    for number, (line, row) in enumerate(_json_rows(path) if path.suffix.lower() == ".jsonl" else _csv_rows(path)):
        if number == 0:
            names = [name for name, _ in row]
            image = column(names, image, FILE_COLUMNS, "image", path)
            caption = column(names, caption, CAPTION_COLUMNS, "caption", path)
        fields = dict(row)
        file, texts = fields.get(str(image)), fields.get(str(caption))
        place = _place(folder, file, f"{path}, line {line}") if isinstance(file, str) and file else ""
        for text in (texts or [""]) if isinstance(texts, list) else [texts]:
            yield {"image": place, "caption": text if isinstance(text, str) else ""}


def _place(folder: Path, name: str, where: str) -> str:
    """Return the path of an image relative to the folder, in one spelling for each image."""
    forms = [name, name.replace("\\", "/")]  # Windows writes backslashes, macOS decomposes accents
    forms += [unicodedata.normalize(form, text) for text in forms for form in ("NFC", "NFD")]
    name = next((form for form in forms if os.path.isfile(folder / form)), name)
    inside = os.path.abspath(folder)
    path = os.path.normpath(os.path.join(inside, name))
    if path != inside and not path.startswith(os.path.join(inside, "")):
        raise SchemaError(f"{where}: {name}: expected a file below {folder}; move the image there")
    return os.path.relpath(path, inside)


def _texts(folder: Path) -> Iterator[dict[str, str]]:
    """Yield images that have a text file of their name; each line is a caption."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    texts = {path.with_suffix(""): path for path in files if path.suffix.lower() == ".txt"}
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    for path in images:
        if (text := texts.get(path.with_suffix(""))) is None:
            continue
        name = path.relative_to(folder).as_posix()
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise SchemaError(f"{folder}: {name!r}: a file name that is not UTF-8; rename the file") from error
        try:
            lines = text.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SchemaError(_unreadable(text, error)) from error
        yield from ({"image": name, "caption": line.strip()} for line in lines if line.strip())
    if not any(path.with_suffix("") in texts for path in images):
        kinds = ", ".join(sorted({path.suffix.lower() for path in files if path.suffix})) or "no"
        known = ", ".join(sorted(SUFFIXES))
        raise SchemaError(
            f"{folder}: {kinds} files and no captions; expected images ({known}) with the columns "
            "file_name and text in metadata.csv or metadata.jsonl, or a text file beside each image (a.jpg, a.txt)"
        )


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"{path}: not UTF-8 text (byte {error.object[error.start]:#x}); save it with the encoding UTF-8"
    return f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})"


def _json_rows(path: Path) -> Iterator[tuple[int, list[tuple[str, object]]]]:
    """Yield the number of each line and its keys with their values."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise SchemaError(f"{path}, line {number}: expected a JSON object, got {line.strip()[:60]}")
                    yield number, list(row.items())
    except (json.JSONDecodeError, RecursionError) as error:
        raise SchemaError(f"{path}, line {number}: not valid JSON ({error})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(_unreadable(path, error)) from error


def _csv_rows(path: Path) -> Iterator[tuple[int, list[tuple[str, object]]]]:
    """Yield the line that each record ends in, and its columns with their values."""
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            unquoted = re.sub(r'"[^"]*"', "", file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",\t;", key=unquoted.count), strict=True)
            header = next(reader, [])
            line = reader.line_num + 1
            for values in reader:
                if any(values[len(header) :]):
                    raise SchemaError(
                        f"{path}, line {reader.line_num}: {len(values)} fields, expected {len(header)}; put texts that "
                        "contain the separator in quotation marks"
                    )
                if values:
                    yield reader.line_num, list(itertools.zip_longest(header, values[: len(header)], fillvalue=""))
                line = reader.line_num + 1
    except csv.Error as error:
        raise SchemaError(
            f"{path}, line {line}: not valid CSV ({error}); close each quotation mark, and double those within a text"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(_unreadable(path, error)) from error
