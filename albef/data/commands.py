"""The command ``albef data``."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from albef.data.schema import EXTRAS, Record, SchemaError


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``albef data``."""
    text = "write lists in the official JSON format, with their images as files"
    action = parser.add_subparsers(dest="action", required=True).add_parser("export", help=text, description=text)
    action.set_defaults(function=_export)
    action.add_argument("--lists", type=Path, required=True, help="folder of lists, such as artifacts/validated/lists")
    action.add_argument("--images", type=Path, required=True, help="output folder of `albef prepare`")
    action.add_argument("--out", type=Path, required=True, help="folder to write; an existing one is replaced")
    action.add_argument("--only", nargs="+", metavar="LIST", help="lists to write; default: all")
    action.add_argument("--limit", type=int, help="number of rows per list; default: all")


def _export(args: argparse.Namespace) -> None:
    export(args.lists, args.images, args.out, args.only, args.limit)


def export(lists: Path, images: Path, out: Path, only: Sequence[str] | None = None, limit: int | None = None) -> None:
    """Write lists in the official formats.

    The result is raw data for ``prepare.source: lists`` with ``image_root: .``.

    Args:
        lists: Folder of the lists.
        images: Folder of the prepared data, or that image paths start from.
        out: Folder to write: ``NAME.json`` for each list, the images under their paths, and ``answer_list.json`` and
            ``grounding_boxes.json`` where ``lists`` has them.
        only: Names of the lists to write; all by default.
        limit: Rows of each list; all by default.

    Raises:
        SchemaError: If a list is missing, or the path of an image does not stay within ``out``.
    """
    from albef.data.files import new_folder, write_list
    from albef.data.lists import Lists, Rows, names_in
    from albef.progress import Progress

    data = Lists(lists, images)
    names = list(only) if only is not None else names_in(lists)
    for name in names:
        if name not in data:
            raise SchemaError(f"{lists}: no list {name}, expected one of {', '.join(names_in(lists)) or 'none'}")

    def written(name: str, rows: Rows, folder: Path) -> Iterator[Record]:
        count = len(rows) if limit is None else min(limit, len(rows))
        for row in Progress(range(count), description=name, unit="rows"):
            record = rows[row]
            for image in rows.images(row, record):
                path = PurePosixPath(image.path)
                if path.is_absolute() or ".." in path.parts:
                    raise SchemaError(f"{rows.name}, row {row}: {image.path}: expected a path below the image folder")
                if not (target := folder / path).exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(image.read())
            yield record

    with new_folder(out) as folder:
        for name in names:
            write_list(folder / f"{name}.json", list(written(name, data[name], folder)))
        for extra in EXTRAS:
            if (lists / f"{extra}.json").is_file():
                shutil.copyfile(lists / f"{extra}.json", folder / f"{extra}.json")
