"""A model repository of the paper's size with random weights: ViT-B/16, twelve layers of text, BERT's vocabulary.

    python -m benchmarks.size --out build/vitb [--pixels 256] [--images 200] [--shortlist 32]

Made with the project's own exporter, from the preset `paper-4m`; what is there already is kept. Speed does not depend
on what the weights are, answers do: they mean nothing here.
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
from albef.serving import protocol
from albef.weights import checkpoint
from benchmarks.load.questions import COLOURS, COUNTS, THINGS, picture, question, sentence

ANSWERS = 3128
"""As many as the official list of answers to VQA has."""
CAPTIONS = 5
"""Of a picture, as in COCO and Flickr30K."""


def parameters(folder: Path, preset: str, pixels: int, shortlist: int) -> Config:
    """The preset's, with a model for pictures of ``pixels`` a side."""
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
    """Pictures, the lists that a repository needs, and a tokenizer of exactly ``vocabulary`` tokens."""
    lists = folder / "lists"
    for path in (folder / "images", lists):
        path.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        (folder / "images" / f"{number}.jpg").write_bytes(picture(10**6 + number))
    rows = [
        {"image": f"images/{number}.jpg", "caption": [sentence(number * CAPTIONS + i) for i in range(CAPTIONS)]}
        for number in range(images)
    ]
    phrases = (" ".join(words) for words in itertools.product(COUNTS, COLOURS, THINGS))
    answers = [*COLOURS, *COUNTS, *THINGS, *("yes", "no"), *(f"{c} {t}" for c in COLOURS for t in THINGS), *phrases]
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
    tasks: Sequence[str] = tuple(protocol.ENDPOINTS),
) -> Path:
    """The repository below ``folder``, made unless it is there."""
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
    """Make it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", choices=sorted(presets.names()), default="paper-4m")
    parser.add_argument("--pixels", type=int, default=256, help="a side of the pictures; the paper's 384 or 256")
    parser.add_argument("--images", type=int, default=200, help="of the gallery, each with five captions")
    parser.add_argument("--shortlist", type=int, default=32, help="candidates that retrieval re-ranks")
    parser.add_argument("--tasks", nargs="+", choices=sorted(protocol.ENDPOINTS), default=list(protocol.ENDPOINTS))
    args = parser.parse_args()
    print(build(args.out, args.preset, args.pixels, args.images, args.shortlist, args.tasks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
