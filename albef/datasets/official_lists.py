"""Official ALBEF lists on disk (COCO, VG, Flickr30K, VQAv2, SNLI-VE, NLVR2, RefCOCO+, ...) as the stages want them.

Where official lists differ among themselves, they are made alike here, so that one schema holds for all that follows:
one root of paths, captions of an evaluation as lists, labels as texts, file names with their suffix.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from albef.config import ListsConfig
from albef.data.files import write_list, write_text
from albef.data.schema import EXTRAS, LISTS, NLVR_LABELS, Record, SchemaError, images_of, load_rows, problems
from albef.datasets import refcoco


def _same(record: Record) -> Record:
    return record


def _retrieval(record: Record) -> Record:
    """An only caption need not be in a list."""
    return record | {"caption": [record["caption"]]} if isinstance(record.get("caption"), str) else record


def _entailment(record: Record) -> Record:
    """Official SNLI-VE rows name the Flickr picture by its number, as a number or as a text."""
    image = record.get("image")
    if isinstance(image, int) and not isinstance(image, bool):
        image = str(image)
    if isinstance(image, str) and image and not PurePosixPath(image).suffix:
        return record | {"image": f"{image}.jpg"}
    return record


def _nlvr(record: Record) -> Record:
    """JSON booleans and other spellings become the texts that readers compare with."""
    label = record.get("label")
    text = str(label).capitalize() if isinstance(label, bool | str) else None
    return record | {"label": text} if text in NLVR_LABELS else record


_NORMAL: dict[str, Callable[[Record], Record]] = {"retrieval": _retrieval, "ve": _entailment, "nlvr": _nlvr}


def convert(config: ListsConfig, raw: Path, out: Path, final: Path) -> None:
    """Join and normalise the lists of ``config``. Records stay unchecked: that is the work of `albef validate`.

    Args:
        raw: Folder that the configured paths start from.
        out: Folder to write.
        final: Where ``out`` will be in the end; a relative image root is recorded from there.

    Raises:
        SchemaError: If a list has an unknown name, a file is missing or no JSON list, or a folder of pictures is
            missing.
    """
    root = raw / config.image_root
    check(config, root)
    entries = {}
    images: set[str] = set()
    referred: list[Record] = []
    # Boxes last: they are found through the records of grounding.
    names = sorted(config.files, key=lambda name: name == "grounding_boxes")
    for name in tqdm(names, desc="lists", unit="list", disable=None):
        records: Any = _boxes(config, raw, referred) if name == "grounding_boxes" else _joined(name, config, raw)
        entries[name] = write_list(out / f"{name}.json", records)
        if name in LISTS:
            sound = [record for record in records if not problems(record, LISTS[name])]
            images.update(path for record in sound for path in images_of(record))
            referred += sound if LISTS[name] == "grounding" else []
    recorded = config.image_root if Path(config.image_root).is_absolute() else os.path.relpath(root, final)
    manifest = {"source": "lists", "image_root": recorded, "lists": entries, "images": _sizes(images, root)}
    write_text(out / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def check(config: ListsConfig, root: Path) -> None:
    """Refuse what names no list, no file or no folder.

    Raises:
        SchemaError: Naming the key.
    """
    if not root.is_dir():
        raise SchemaError(f"prepare.lists.image_root: no folder {root}, expected the one image paths start from")
    for name, files in config.files.items():
        if name not in LISTS and name not in EXTRAS:
            known = ", ".join((*LISTS, *EXTRAS))
            raise SchemaError(f"prepare.lists.files.{name}: not the name of a list; known are {known}")
        if not files:
            raise SchemaError(f"prepare.lists.files.{name}: no file, expected at least one")
    known_places = {*config.files, *(file for files in config.files.values() for file in files)}
    for key, folder in (config.folders or {}).items():
        if key not in known_places:
            raise SchemaError(f"prepare.lists.folders.{key}: expected a list of prepare.lists.files, or a file of it")
        if not (root / folder).is_dir():
            raise SchemaError(f"prepare.lists.folders.{key}: no folder {root / folder}")


def _sizes(images: set[str], root: Path) -> dict[str, Any]:
    """A digest over paths and file sizes, so that stages after this one notice other pictures under the same lists.

    Hashing the bytes of a web-scale corpus here would only repeat what versioning the raw data does.
    """
    digest = hashlib.sha256()
    for image in sorted(images):
        path = root / image
        digest.update(f"{image}\0{path.stat().st_size if path.is_file() else -1}\n".encode())
    return {"count": len(images), "sizes_sha256": digest.hexdigest()}


def rows_of(name: str, file: str, config: ListsConfig, raw: Path) -> list[Any]:
    """Rows of one file of list ``name``, normalised and with paths from the image root, malformed ones as they are.

    Raises:
        SchemaError: If the file is missing or no JSON list.
    """
    rows = load_rows(raw / file)
    if name in LISTS:
        normal, place = _NORMAL.get(LISTS[name], _same), _places(config, name, file)
        rows = [_placed(normal(row), place) if isinstance(row, dict) else row for row in rows]
    return rows


def _joined(name: str, config: ListsConfig, raw: Path) -> list[Any]:
    """Rows of all files of a list."""
    joined = [row for file in config.files[name] for row in rows_of(name, file, config, raw)]
    if name == "answer_list" and all(isinstance(row, str) for row in joined):
        return list(dict.fromkeys(joined))
    return joined


def _boxes(config: ListsConfig, raw: Path, records: list[Record]) -> dict[str, Any]:
    """Boxes in our format, under the paths that the records of grounding have."""
    parts: list[refcoco.Part] = []
    merged: dict[str, Any] = {"refs": {}, "proposals": {}}
    for file in config.files["grounding_boxes"]:
        part = refcoco.read(raw / file)
        if part.kind != "boxes":
            parts.append(part)
            continue
        place = _places(config, "grounding_boxes", file)
        merged["refs"] |= {key: _placed(ref, place) for key, ref in part.content["refs"].items()}
        merged["proposals"] |= {place(image): boxes for image, boxes in part.content["proposals"].items()}
    if parts:
        found = refcoco.convert(parts, records)
        for key in merged:
            merged[key] |= found[key]
    return merged


def _placed(record: Any, place: Callable[[str], str]) -> Any:
    """A record whose paths start from the image root."""
    if not isinstance(record, dict):
        return record
    if isinstance(record.get("image"), str):
        record = record | {"image": place(record["image"])}
    if isinstance(record.get("images"), list):
        record = record | {"images": [place(i) if isinstance(i, str) else i for i in record["images"]]}
    return record


def _places(config: ListsConfig, name: str, file: str) -> Callable[[str], str]:
    """Where a path of ``file`` leads from the image root: some lists share a root, others have their own."""
    folders = config.folders or {}
    folder = folders.get(file, folders.get(name))
    moved = [(old.rstrip("/") + "/", new) for old, new in (config.moved or {}).items()]

    def place(path: str) -> str:
        for old, new in moved:
            if path.startswith(old):
                return str(PurePosixPath(new, path[len(old) :].lstrip("/")))
        return path if folder is None or not path else str(PurePosixPath(folder, path))

    return place
