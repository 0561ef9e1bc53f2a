"""Reader of JSON lists, row by row.

A list of gigabytes needs no more memory than a short one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from albef.data.schema import SchemaError, load_rows

_CHUNK = 1 << 20
_SPACES = " \t\n\r"
_SPACE = re.compile(f"[{_SPACES}]*")


def rows(path: Path) -> Iterator[Any]:
    """Yield the rows of a JSON list without checking them.

    Raises:
        SchemaError: If the file is missing or is not a JSON list; rows before an error have been yielded.
    """
    try:
        with path.open(encoding="utf-8") as file:
            start = file.read(_CHUNK)
            while not start.strip(_SPACES) and (more := file.read(_CHUNK)):
                start = more
            if not start.lstrip(_SPACES).startswith("["):
                yield from load_rows(path)  # fails, and says why
                return
            yield from _elements(start, file.read)
    except OSError as error:
        raise SchemaError(f"{path}: cannot read the list ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, SchemaError) else SchemaError(f"{path}: not valid JSON ({error})") from error


def _elements(text: str, read: Callable[[int], str]) -> Iterator[Any]:
    """Yield the elements of a JSON array.

    Args:
        text: Beginning of the file.
        read: Returns a number of further characters, fewer at the end.
    """
    decode = json.JSONDecoder().raw_decode
    place, size, first = text.index("[") + 1, _CHUNK, True
    while True:
        place = _end_of_space(text, place)
        try:
            if first and text[place] == "]":
                end = place
            else:
                value, end = decode(text, place)
                end = _end_of_space(text, end)
            after = text[end]  # an element ends where a delimiter follows: 12 may be the start of 123 or 12.5
            if after not in ",]":
                raise ValueError(f"expected ',' or ']' between elements, got {text[end : end + 20]!r}")
        except (ValueError, IndexError) as error:
            if not (more := read(size)):
                raise ValueError(f"no end of the list: {error}") from error
            text, place, size = text[place:] + more, 0, 2 * size
            continue
        if end > place:
            yield value
        if after == "]":
            rest = text[end + 1 :].strip(_SPACES)
            while not rest and (more := read(_CHUNK)):
                rest = more.strip(_SPACES)
            if rest:
                raise ValueError(f"extra data after the list: {rest[:20]!r}")
            return
        place, size, first = end + 1, _CHUNK, False


def _end_of_space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    assert match is not None
    return match.end()
