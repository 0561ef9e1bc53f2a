"""Official ALBEF lists on disk (COCO, VG, Flickr30K, VQAv2, SNLI-VE, NLVR2, RefCOCO+, ...) as the stages want them."""

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
from albef.data.schema import LISTS, SchemaError, images_of, load_rows, problems

# Not lists of records: the answer candidates of VQA, and boxes for grounding (see `albef.data.emoji.lists.make`).
EXTRAS = ("answer_list", "grounding_boxes")


def _entailment(record: dict[str, Any]) -> dict[str, Any]:
    """Official SNLI-VE rows name the Flickr picture without its suffix."""
    image = record.get("image")
    if isinstance(image, str) and image and not PurePosixPath(image).suffix:
        return record | {"image": f"{image}.jpg"}
    return record


def _nlvr(record: dict[str, Any]) -> dict[str, Any]:
    """JSON booleans become the texts that readers compare with."""
    return record | {"label": str(record["label"])} if isinstance(record.get("label"), bool) else record


_NORMAL: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"ve": _entailment, "nlvr": _nlvr}


def convert(config: ListsConfig, raw: Path, out: Path, final: Path) -> None:
    """Join and normalise the lists of ``config``. Records stay unchecked: that is the work of `albef validate`.

    Args:
        raw: Folder that the configured paths start from.
        out: Folder to write.
        final: Where ``out`` will be in the end; a relative image root is recorded from there.

    Raises:
        SchemaError: If a list has an unknown name, or a file is missing or no JSON list.
    """
    root = raw / config.image_root
    if not root.is_dir():
        raise SchemaError(f"prepare.lists.image_root: no folder {root}, expected the one image paths start from")
    entries = {}
    images: set[str] = set()
    for name, files in tqdm(config.files.items(), desc="lists", unit="list", disable=None):
        if name not in LISTS and name not in EXTRAS:
            known = ", ".join((*LISTS, *EXTRAS))
            raise SchemaError(f"prepare.lists.files.{name}: not the name of a list; known are {known}")
        if not files:
            raise SchemaError(f"prepare.lists.files.{name}: no file, expected at least one")
        records: Any = _boxes(raw, files) if name == "grounding_boxes" else _joined(name, raw, files)
        entries[name] = write_list(out / f"{name}.json", records)
        if name in LISTS:
            images.update(path for r in records if not problems(r, LISTS[name]) for path in images_of(r))
    recorded = config.image_root if Path(config.image_root).is_absolute() else os.path.relpath(root, final)
    manifest = {"source": "lists", "image_root": recorded, "lists": entries, "images": _sizes(images, root)}
    write_text(out / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def _sizes(images: set[str], root: Path) -> dict[str, Any]:
    """A digest over paths and file sizes, so that stages after this one notice other pictures under the same lists.

    Hashing the bytes of a web-scale corpus here would only repeat what versioning the raw data does.
    """
    digest = hashlib.sha256()
    for image in sorted(images):
        path = root / image
        digest.update(f"{image}\0{path.stat().st_size if path.is_file() else -1}\n".encode())
    return {"count": len(images), "sizes_sha256": digest.hexdigest()}


def _joined(name: str, raw: Path, files: list[str]) -> list[Any]:
    rows = [record for file in files for record in load_rows(raw / file)]
    if name == "answer_list":
        return list(dict.fromkeys(rows))
    normal = _NORMAL.get(LISTS[name])
    return rows if normal is None else [normal(r) if isinstance(r, dict) else r for r in rows]


def _boxes(raw: Path, files: list[str]) -> dict[str, Any]:
    merged: dict[str, Any] = {"refs": {}, "proposals": {}}
    for file in files:
        path = raw / file
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SchemaError(f"{path}: not a readable JSON file ({error})") from error
        for key in merged:
            if not isinstance(data, dict) or not isinstance(data.get(key), dict):
                raise SchemaError(f"{path}, {key}: expected a JSON object of boxes")
            merged[key].update(data[key])
    return merged
