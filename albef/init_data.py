"""The command ``albef init-data``: parameters for own images and captions, or for own lists."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef import init_lists
from albef.config import ConfigError, PairsConfig, load
from albef.data.images import SUFFIXES
from albef.data.text import clean
from albef.datasets import pairs, photo_folder, shards
from albef.init_lists import MAX_BAD, SIDE, STORED
from albef.io import write_file

_VAL = _TEST = 0.1
_COUNTED = 100_000
"""Images of a source that are counted; a larger one is seen once."""


@dataclass(frozen=True)
class Found:
    """Contents of a source.

    Args:
        captions: Captions of all images.
        splits: Images of train, val and test.
        words: Words of the longest caption.
        missing: Files that captions name and that do not exist.
        whole: Whether all images were counted.
    """

    captions: int
    splits: Mapping[str, int]
    words: int
    missing: int
    whole: bool


def add(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``albef init-data``."""
    command.set_defaults(function=_run)
    command.add_argument(
        "source", help="folder of images with captions or of lists, .tar or .parquet files, or hub:NAME"
    )
    command.add_argument("--image", help="column of the image; default: found by name")
    command.add_argument("--caption", help="column of the caption; default: found by name")
    command.add_argument("--out", type=Path, help="file to write; default: the parameter file itself")


def _run(args: argparse.Namespace) -> None:
    print(init(args.source, args.params, args.out or args.params, args.image, args.caption))


def init(source: str, params: Path, out: Path, image: str | None = None, caption: str | None = None) -> str:
    """Write parameters for retrieval on a source of pairs, or for a folder of lists.

    Args:
        source: As ``prepare.pairs.path``, relative to the working directory; or a folder with ``pretrain.json`` and
            other lists in the official format (`albef.init_lists`).
        params: Parameter file to start from.
        out: File to write.
        image, caption: Columns; found by name by default.

    Returns:
        What was chosen, as text.

    Raises:
        SchemaError: If the source is missing or has no captions.
        ConfigError: If ``params`` is malformed, or there are too few images.
    """
    from ruamel.yaml import YAML

    load(params)
    data = YAML().load(params)
    if sizes := init_lists.sizes_in(Path(source)):
        text = init_lists.fill(data, Path(source).absolute(), sizes)
        _write(data, out)
        return f"{out}: {text}"
    if "retrieval" not in data["tasks"]:
        raise ConfigError(f"{params}: no tasks.retrieval; start from another file, such as params.yaml as committed")
    path = source if source.startswith(shards.HUB) else os.path.abspath(source)
    config = PairsConfig(path=path, image=image, caption=caption, val=_VAL, test=_TEST)
    if path.startswith(shards.HUB):
        found = None
        next(pairs.read(config, Path()), None)  # fails if it cannot be read
    else:
        found = _count(config)
    left_out = _fill(data, config, found)
    _write(data, out)
    return _summary(data, config, found, left_out, out)


def _write(data: Mapping[str, Any], out: Path) -> None:
    from albef.presets import dump

    try:
        write_file(out, dump(data))
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); name another file with --out") from error


def _count(config: PairsConfig) -> Found:
    splits, suffixes = Counter[str](), Counter[str]()
    captions = words = 0
    missing: list[str] = []
    whole = True
    for pair in pairs.read(config, Path(), content=False):
        if splits.total() == _COUNTED:
            whole = False
            break
        if pair.image is None:
            missing.append(pair.path)
            continue
        splits[pairs.split_of(pair.key, config.val, config.test)] += 1
        suffixes[Path(pair.path).suffix.lower()] += 1
        captions += len(pair.captions)
        words = max(words, *(len(clean(text).split()) for text in pair.captions))
    images = splits.total()
    unknown = {suffix: count for suffix, count in suffixes.items() if suffix and suffix not in SUFFIXES}
    if sum(unknown.values()) > MAX_BAD * images:
        raise ConfigError(
            f"{config.path}: {sum(unknown.values())} of {images} images are {', '.join(unknown)} files, expected "
            f"{', '.join(sorted(SUFFIXES))}; convert them, for example to JPEG"
        )
    if len(missing) > MAX_BAD * (images + len(missing)):
        raise ConfigError(
            f"{config.path}: {len(missing)} of {images + len(missing)} images with captions are missing, such as "
            f"{missing[0] or 'one without a name'}; expected paths below this folder"
        )
    for split in ("train", "val", "test"):
        if splits[split] < (4 if split == "train" else 1):
            raise ConfigError(
                f"{config.path}: {images} images with captions, {splits[split]} of them for {split}; that is too few, "
                "add images until there are 50 or more"
            )
    return Found(captions, splits, words, len(missing), whole)


def _fill(data: MutableMapping[str, Any], config: PairsConfig, found: Found | None) -> list[str]:
    """Change parameters in place; return the tasks that are left out."""
    values = {key: value for key, value in vars(config).items() if value is not None}
    if not config.path.startswith(shards.HUB):
        del values["split"]
    data["prepare"].update({"source": "pairs", "pairs": values})
    init_lists.adapt(data)
    if found is not None:
        longest = data["validate"]["max_caption_words"]
        data["validate"]["max_caption_words"] = max(longest, found.words)
    left_out = init_lists.leave_out(data, [name for name in data["tasks"] if name != "retrieval"])
    data["tune"]["tasks"] = []
    sections = {"pretrain": data["pretrain"], "retrieval": data["tasks"]["retrieval"]["train"]}
    for name, section in {**sections, "text_assignment": data["text_assignment"]}.items():
        if found is None:
            init_lists.augment(section)
            continue
        rows = found.captions * found.splits["train"] // sum(found.splits.values())
        rows = found.splits["train"] if name != "retrieval" else rows
        init_lists.size(section, rows, init_lists.STEPS.get(name, 0) if found.whole else 0)
    return left_out


def _summary(data: Mapping[str, Any], config: PairsConfig, found: Found | None, left_out: list[str], out: Path) -> str:
    pretrain = data["pretrain"]
    lines = [f"{out}: retrieval on the pairs of {config.path}"]
    if found is None:
        lines.append("  size:        unknown; set epochs and batch_size in pretrain and tasks.retrieval.train yourself")
    else:
        splits = ", ".join(f"{found.splits[split]:,} {split}" for split in ("train", "val", "test"))
        lines += [
            f"  captions:    {'' if found.whole else 'more than '}{found.captions:,}{_place(config)}",
            f"  split:       {splits} images; by the hash of each name, so that more images move none",
            f"  pretraining: {pretrain['epochs']} epochs in batches of {pretrain['batch_size']}",
        ]
        if found.missing:
            lines.append(f"  missing:     {found.missing} files that captions name")
    lines += [
        f"  images:      stored with at most {STORED} pixels, seen by the model at {SIDE} x {SIDE}",
        "  bad records: dropped and listed in artifacts/validated/quarantine.json, up to 5 % of a list",
        f"  left out:    {', '.join(left_out) or 'no task'} (no data)",
        "Next:",
        "  .venv/bin/dvc repro",
        "  .venv/bin/albef serve --repository artifacts/repository",
        '  .venv/bin/albef ask retrieval "a text that describes one of the images"',
        "The server searches the test images; docs/data.md tells how to index all. A model trained from scratch on few",
        "images finds little; docs/checkpoints.md tells how to start from a published checkpoint.",
    ]
    return "\n".join(lines)


def _place(config: PairsConfig) -> str:
    if (files := shards.files(config.path, Path())) is not None:
        return f" in {len(files)} {files[0].suffix} file{'s' if len(files) > 1 else ''}"
    table = photo_folder.table(Path(config.path))
    return f" in {table.name}" if table else " in text files beside the images"
