"""Create a model repository of the paper's size with random weights.

    python -m benchmarks.size --out build/vitb [--pixels 256] [--images 200] [--shortlist 32]

The model has a ViT-B/16, twelve text layers and BERT's vocabulary. The script uses the project's exporter and the
preset `paper-4m`, and keeps existing files. Speed does not depend on the weights; answers do, and are meaningless here.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import itertools
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from albef import config as configuration
from albef import presets
from albef.config import Config
from albef.data import tokenizer
from albef.export import onnx, repository
from albef.models.albef import ALBEF
from albef.tasks import registry
from albef.weights import checkpoint
from benchmarks.load.questions import COLORS, COUNTS, THINGS, make_image, question, sentence

ANSWERS = 3128
"""Length of the official VQA answer list."""
CAPTIONS = 5
"""Captions per image, as in COCO and Flickr30K."""


def parameters(folder: Path, preset: str, pixels: int, shortlist: int) -> Config:
    """Return the preset with the image size set to ``pixels``."""
    folder.mkdir(parents=True, exist_ok=True)
    presets.write(preset, folder / "params.yaml", force=True)
    config = configuration.load(folder / "params.yaml")
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, image_size=pixels),
        serve=dataclasses.replace(config.serve, shortlist=shortlist),
        export=dataclasses.replace(config.export, parity_samples=2),
    )


def world(folder: Path, images: int, vocabulary: int) -> None:
    """Write images, lists, and a tokenizer of exactly ``vocabulary`` tokens."""
    lists = folder / "lists"
    for path in (folder / "images", lists):
        path.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        (folder / "images" / f"{number}.jpg").write_bytes(make_image(10**6 + number))
    rows = [
        {"image": f"images/{number}.jpg", "caption": [sentence(number * CAPTIONS + i) for i in range(CAPTIONS)]}
        for number in range(images)
    ]
    phrases = (" ".join(words) for words in itertools.product(COUNTS, COLORS, THINGS))
    answers = [*COLORS, *COUNTS, *THINGS, *("yes", "no"), *(f"{c} {t}" for c in COLORS for t in THINGS), *phrases]
    for name, records in (("retrieval_test", rows), ("answer_list", answers[:ANSWERS])):
        (lists / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
    texts = [text for row in rows for text in row["caption"]] + [question(number) for number in range(images)]
    data = json.loads(tokenizer.train([*texts, *answers], vocab_size=1024).to_str())
    words = data["model"]["vocab"]
    words.update({f"[unused{number}]": number for number in range(len(words), vocabulary)})
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer" / tokenizer.FILE).write_text(json.dumps(data), encoding="utf-8")


def build(
    folder: Path,
    preset: str,
    pixels: int,
    images: int,
    shortlist: int,
    tasks: Sequence[str] = tuple(registry.served_tasks()),
) -> Path:
    """Create the repository below ``folder`` unless it exists, and return its path."""
    target = folder / "repository"
    if target.is_dir():
        return target
    config = parameters(folder, preset, pixels, shortlist)
    world(folder, images, config.tokenizer.vocab_size)
    for task in tasks:
        if not (folder / "export" / task).is_dir():
            torch.manual_seed(0)
            checkpoint.save(ALBEF(config.model, config.tokenizer.vocab_size, task), folder / "model" / "model.pth")
            gc.collect()
            onnx.run(config, task, folder / "model", folder / "tokenizer", folder / "export" / task)
            shutil.rmtree(folder / "model")
            print(f"{task}: exported", flush=True)
    repository.run(config, folder / "export", folder / "lists", folder, folder / "tokenizer", target)
    return target


def main() -> int:
    """Create the repository and print its path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--preset", choices=sorted(presets.names()), default="paper-4m")
    parser.add_argument("--pixels", type=int, default=256, help="image size; 256 or 384 in the paper")
    parser.add_argument("--images", type=int, default=200, help="images in the search index, with five captions each")
    parser.add_argument("--shortlist", type=int, default=32, help="candidates to re-rank in retrieval")
    tasks = list(registry.served_tasks())
    parser.add_argument("--tasks", nargs="+", choices=sorted(tasks), default=tasks)
    args = parser.parse_args()
    print(build(args.out, args.preset, args.pixels, args.images, args.shortlist, args.tasks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
