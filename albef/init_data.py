"""The command ``albef init-data``: parameters for retrieval on own images and captions."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef.config import ConfigError, PairsConfig, load
from albef.data.text import clean
from albef.datasets import pairs, photo_folder
from albef.io import write_file

_VAL = _TEST = 0.1
_SIDE, _STORED = 128, 512
"""Pixels per side that the model sees, and of the longer side of stored images."""
_STEPS = {"pretrain": 600, "retrieval": 200}
"""Steps of training that take minutes on a CPU."""
_LARGEST_BATCH = 32


@dataclass(frozen=True)
class Found:
    """What a folder of images holds.

    Args:
        captions: Captions of all images.
        splits: Images of train, val and test.
        words: Words of the longest caption.
        missing: Files that captions name and that do not exist.
    """

    captions: int
    splits: Mapping[str, int]
    words: int
    missing: int


def add(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``albef init-data``."""
    command.set_defaults(function=_run)
    command.add_argument("source", help="folder of images with captions, .tar or .parquet files, or hub:NAME")
    command.add_argument("--image", help="column of the image; default: found by name")
    command.add_argument("--caption", help="column of the caption; default: found by name")
    command.add_argument("--out", type=Path, help="file to write; default: the parameter file itself")


def _run(args: argparse.Namespace) -> None:
    print(init(args.source, args.params, args.out or args.params, args.image, args.caption))


def init(source: str, params: Path, out: Path, image: str | None = None, caption: str | None = None) -> str:
    """Write parameters that train and serve retrieval on a source of pairs.

    Args:
        source: As ``prepare.pairs.path``; relative to the working directory.
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

    from albef.presets import dump

    load(params)
    data = YAML().load(params)
    path = source if source.startswith(pairs.HUB) else str(Path(source).resolve())
    config = PairsConfig(path=path, image=image, caption=caption, val=_VAL, test=_TEST)
    found = None
    if not path.startswith(pairs.HUB) and pairs.shards(path, Path()) is None:
        found = _count(config)
    left_out = _fill(data, config, found)
    write_file(out, dump(data))
    return _summary(data, config, found, left_out, out)


def _count(config: PairsConfig) -> Found:
    folder = Path(config.path)
    captions = Counter[str]()
    words = 0
    for row in photo_folder.rows(folder, config.image, config.caption):
        captions[row["image"]] += 1
        words = max(words, len(clean(row["caption"]).split()))
    missing = [path for path in captions if not (folder / path).is_file()]
    for path in missing:
        del captions[path]
    splits = Counter(pairs.split_of(path, config.val, config.test) for path in captions)
    for split in ("train", "val", "test"):
        if splits[split] < (4 if split == "train" else 1):
            raise ConfigError(
                f"{folder}: {len(captions)} images with captions, {splits[split]} of them for {split}; that is too "
                "few, add images"
            )
    return Found(captions.total(), splits, words, len(missing))


def _fill(data: MutableMapping[str, Any], config: PairsConfig, found: Found | None) -> list[str]:
    """Change parameters in place; return the tasks that are left out."""
    values = {key: value for key, value in vars(config).items() if value is not None}
    if not config.path.startswith(pairs.HUB):
        del values["split"]
    data["prepare"].update({"source": "pairs", "pairs": values, "max_side": _STORED})
    data["validate"].update({"on_bad_record": "quarantine", "max_bad_share": 0.05})
    data["tokenizer"].update({"kind": "wordpiece", "vocab_size": 8192})
    data["tokenizer"].pop("source", None)
    data["model"]["image_size"] = _SIDE
    if found is not None:
        longest = data["validate"]["max_caption_words"]
        data["validate"]["max_caption_words"] = max(longest, found.words)
    left_out = [name for name in data["tasks"] if name != "retrieval"]
    for name in left_out:
        del data["tasks"][name]
        data["release"]["metrics"].pop(name, None)
    data["tune"]["tasks"] = []
    workers = min(4, (os.cpu_count() or 1) // 2)
    sections = {"pretrain": data["pretrain"], "retrieval": data["tasks"]["retrieval"]["train"]}
    for name, section in {**sections, "text_assignment": data["text_assignment"]}.items():
        section.update({"augment": "randaugment", "num_workers": workers})
        if found is None:
            continue
        rows = found.captions * found.splits["train"] // sum(found.splits.values())
        rows = found.splits["train"] if name != "retrieval" else rows
        batch = _LARGEST_BATCH
        while batch > 2 and batch * 2 > rows:
            batch //= 2
        steps = rows // batch
        epochs = max(1, round(_STEPS[name] / steps)) if name in _STEPS else 1
        section.update({"batch_size": batch, "epochs": epochs})
        section.update({"log_every": max(1, min(40, steps * epochs // 10)), "checkpoint_every": 100})
        section["optim"]["warmup_steps"] = max(1, steps * epochs // 20)
    return left_out


def _summary(data: Mapping[str, Any], config: PairsConfig, found: Found | None, left_out: list[str], out: Path) -> str:
    pretrain = data["pretrain"]
    lines = [f"{out}: retrieval on the pairs of {config.path}"]
    if found is not None:
        table = photo_folder.table(Path(config.path))
        splits = ", ".join(f"{found.splits[split]} {split}" for split in ("train", "val", "test"))
        lines += [
            f"  captions:    {found.captions}, of {table.name if table else 'text files beside the images'}",
            f"  split:       {splits}; decided by the name of each file, so that more images move none",
            f"  pretraining: {pretrain['epochs']} epochs in batches of {pretrain['batch_size']}",
        ]
        if found.missing:
            lines.append(f"  missing:     {found.missing} files that captions name; up to 5 % of a list may be bad")
    lines += [
        f"  images:      stored with at most {_STORED} pixels, seen by the model at {_SIDE} x {_SIDE}",
        "  bad records: dropped and listed in artifacts/validated/quarantine.json, up to 5 % of a list",
        f"  left out:    {', '.join(left_out) or 'no task'} (no data)",
        "Next:",
        "  .venv/bin/dvc repro",
        "  .venv/bin/albef serve --repository artifacts/repository",
        '  .venv/bin/albef ask retrieval "a text that describes one of the images"',
        "A model trained from scratch on few images finds little. docs/checkpoints.md tells how to start from a",
        "published checkpoint, docs/data.md what the parameters mean.",
    ]
    return "\n".join(lines)
