"""Conversion of official ALBEF lists (COCO, VG, VQAv2, NLVR2, ...).

Official lists differ in details. The conversion normalizes them to one schema for all later stages: paths relative to
one root, evaluation captions as lists, labels as strings, file names with their suffix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from albef.config import ListsConfig
from albef.data.files import write_list
from albef.data.lists import IMAGE_FOLDER
from albef.data.schema import EXTRAS, NLVR_LABELS, Record, SchemaError, images_of, known_lists, problems
from albef.datasets import image_parts, json_stream, refcoco, tables
from albef.datasets.image_numbers import ImageNumbers
from albef.progress import Progress


def _identity(record: Record) -> Record:
    return record


def _retrieval(record: Record) -> Record:
    """Wrap a single caption in a list."""
    return record | {"caption": [record["caption"]]} if isinstance(record.get("caption"), str) else record


def _entailment(record: Record) -> Record:
    """Convert image numbers of SNLI-VE, integers or strings, to Flickr30K file names."""
    image = record.get("image")
    if isinstance(image, int) and not isinstance(image, bool):
        image = str(image)
    if isinstance(image, str) and image and not PurePosixPath(image).suffix:
        return record | {"image": f"{image}.jpg"}
    return record


def _nlvr(record: Record) -> Record:
    """Convert JSON booleans and other spellings to the official label strings."""
    label = record.get("label")
    text = str(label).capitalize() if isinstance(label, bool | str) else None
    return record | {"label": text} if text in NLVR_LABELS else record


_NORMALIZERS: dict[str, Callable[[Record], Record]] = {"retrieval": _retrieval, "ve": _entailment, "nlvr": _nlvr}


def convert(config: ListsConfig, raw: Path, out: Path, max_side: int | None, work: Path) -> dict[str, Any]:
    """Join and normalize the lists of ``config``; `albef validate` checks the records.

    Args:
        raw: Folder that the configured paths start from.
        out: Folder to write.
        max_side: Longer side, in pixels, that larger images are shrunk to. Images of grounding keep their size, which
            the boxes refer to.
        work: Folder for images until all are written, from which an interrupted run goes on.

    Returns:
        The manifest.

    Raises:
        SchemaError: If a list has an unknown name, a file is missing or not a JSON list, or an image folder is missing.
    """
    root = raw / config.image_root
    check(config, root)
    numbers, grounding, names = _numbers(config, raw)
    places = numbers.finish()
    others = {}
    entry = image_parts.write(numbers, root, max_side, work, out / IMAGE_FOLDER)
    with tables.ListWriter(out) as writer:
        for name in Progress(names, description="lists", unit="lists"):
            if name not in known_lists():
                value = _boxes(config, raw, grounding) if name == "grounding_boxes" else _joined(name, config, raw)
                others[name] = write_list(out / f"{name}.json", value)
                continue
            writer.list(name)
            several = len(config.files[name]) > 1
            for file, record, images in _records(name, config, raw):
                writer.record(name, record, list(islice(places, len(images))), file if several else None)
    return {"source": "lists", "lists": writer.manifest()["lists"] | others, "images": entry}


def _numbers(config: ListsConfig, raw: Path) -> tuple[ImageNumbers, list[Record], list[str]]:
    """Read all lists once.

    Returns:
        The images, the valid records of grounding, and the names of the lists.
    """
    numbers, grounding = ImageNumbers(), list[Record]()
    # Boxes come last, as they are looked up by the grounding records.
    names = sorted(config.files, key=lambda name: name == "grounding_boxes")
    for name in Progress([name for name in names if name in known_lists()], description="paths", unit="lists"):
        kind = known_lists()[name]
        for _, record, images in _records(name, config, raw):
            for path in images:
                numbers.add(path, shrink=not kind.startswith("grounding"))
            if kind == "grounding" and images:
                grounding.append(record)
    return numbers, grounding, names


def _records(name: str, config: ListsConfig, raw: Path) -> Iterator[tuple[str, Any, Sequence[str]]]:
    """Yield the file, the record and its images for all rows of a list.

    A malformed record has no images: they are unknown, and `albef validate` reports it.
    """
    kind = known_lists()[name]
    for file in config.files[name]:
        for record in rows_of(name, file, config, raw):
            yield file, record, () if problems(record, kind) else images_of(record)


def check(config: ListsConfig, root: Path) -> None:
    """Check list names, files and folders of ``config``.

    Raises:
        SchemaError: If one is unknown or missing; the message names the key.
    """
    if not root.is_dir():
        raise SchemaError(f"prepare.lists.image_root: no folder {root}, expected the root of image paths")
    for name, files in config.files.items():
        if name not in known_lists() and name not in EXTRAS:
            known = ", ".join((*known_lists(), *EXTRAS))
            raise SchemaError(f"prepare.lists.files.{name}: not the name of a list; known names are {known}")
        if not files:
            raise SchemaError(f"prepare.lists.files.{name}: no file, expected at least one")
    known_keys = {*config.files, *(file for files in config.files.values() for file in files)}
    for key, folder in (config.folders or {}).items():
        if key not in known_keys:
            raise SchemaError(f"prepare.lists.folders.{key}: expected a list or a file of prepare.lists.files")
        if not (root / folder).is_dir():
            raise SchemaError(f"prepare.lists.folders.{key}: no folder {root / folder}, expected an image folder")


def rows_of(name: str, file: str, config: ListsConfig, raw: Path) -> Iterator[Any]:
    """Read and normalize one file of list ``name``, row by row.

    Paths of the result start from the image root. Malformed rows are yielded unchanged.

    Raises:
        SchemaError: If the file is missing or not a JSON list.
    """
    rows = json_stream.rows(raw / file)
    if name not in known_lists():
        yield from rows
        return
    normalize, resolve = _NORMALIZERS.get(known_lists()[name], _identity), _path_resolver(config, name, file)
    for row in rows:
        yield _with_paths(normalize(row), resolve) if isinstance(row, dict) else row


def _joined(name: str, config: ListsConfig, raw: Path) -> list[Any]:
    """Return the rows of all files of a list."""
    joined = [row for file in config.files[name] for row in rows_of(name, file, config, raw)]
    if name == "answer_list" and all(isinstance(row, str) for row in joined):
        return list(dict.fromkeys(joined))
    return joined


def _boxes(config: ListsConfig, raw: Path, records: list[Record]) -> dict[str, Any]:
    """Return the joined boxes of all files.

    They have the format of `albef.datasets.emoji.lists.make` and the image paths of ``records``.
    """
    parts: list[refcoco.Part] = []
    merged: dict[str, Any] = {"refs": {}, "proposals": {}}
    for file in config.files["grounding_boxes"]:
        part = refcoco.read(raw / file)
        if part.kind != "boxes":
            parts.append(part)
            continue
        resolve = _path_resolver(config, "grounding_boxes", file)
        merged["refs"] |= {key: _with_paths(ref, resolve) for key, ref in part.content["refs"].items()}
        merged["proposals"] |= {resolve(image): boxes for image, boxes in part.content["proposals"].items()}
    if parts:
        converted = refcoco.convert(parts, records)
        for key in merged:
            merged[key] |= converted[key]
    return merged


def _with_paths(record: Any, resolve: Callable[[str], str]) -> Any:
    """Return a record with its image paths resolved."""
    if not isinstance(record, dict):
        return record
    if isinstance(record.get("image"), str):
        record = record | {"image": resolve(record["image"])}
    if isinstance(record.get("images"), list):
        record = record | {"images": [resolve(i) if isinstance(i, str) else i for i in record["images"]]}
    return record


def _path_resolver(config: ListsConfig, name: str, file: str) -> Callable[[str], str]:
    """Return a function that makes paths relative to the image root.

    ``config.folders`` gives lists or files a folder of their own, ``config.moved`` replaces path prefixes.
    """
    folders = config.folders or {}
    folder = folders.get(file, folders.get(name))
    moved = [(old.rstrip("/") + "/", new) for old, new in (config.moved or {}).items()]

    def resolve(path: str) -> str:
        for old, new in moved:
            if path.startswith(old):
                return str(PurePosixPath(new, path[len(old) :].lstrip("/")))
        return path if folder is None or not path else str(PurePosixPath(folder, path))

    return resolve
