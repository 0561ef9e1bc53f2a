"""Time of a training image from file to pixels, beside the official pipeline.

.venv/bin/python -m benchmarks.input --official ../ALBEF    # needs OpenCV: pip install opencv-python-headless
.venv/bin/python -m benchmarks.input --photos ~/photos

Both sides run on one core, read the same JPEG files, crop, mirror and augment them at random, as in pretraining.
Without a checkout of the official code, the other side is a pipeline of Pillow and torchvision: the official one
without RandAugment. That side ends with normalized floats; ours ends with bytes, which are normalized on the device.

The sides take turns, and CPU time is measured, so other programs disturb little. The ratio is the median over the
rounds, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from ruamel.yaml import YAML
from torchvision import transforms

from albef import presets
from albef.config import Config, from_dict
from albef.data.datasets import PRETRAIN_CROP
from albef.data.image_text import PairDataset
from albef.data.images import MEAN, STD
from albef.data.lists import Images, Rows
from albef.data.rand_augment import OPERATIONS
from benchmarks.load.loop import table
from benchmarks.official import operation, pretraining_set

HEADER = ["source", "bits/pixel", "{other} ms", "ours ms", "ours images/s", "ratio"]
CAPTION = "a dog that sleeps on a red sofa"


@dataclass(frozen=True)
class Result:
    """Milliseconds of an image in each round."""

    ours: list[float]
    other: list[float]

    @property
    def ratios(self) -> list[float]:
        return [other / ours for ours, other in zip(self.ours, self.other, strict=True)]


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Return noise with the spectrum of a detailed photo.

    Amplitudes fall with the frequency to the power of 1.4.
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1

    def plane() -> np.ndarray:
        values = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(height, width))) / frequency**1.4, s=(height, width))
        return values / values.std()

    light = plane()[..., None] * 55
    color = np.stack([plane() for _ in range(3)], axis=-1) * 12
    return Image.fromarray(np.clip(128 + light + color, 0, 255).astype(np.uint8))


def write_photos(folder: Path, width: int, height: int, count: int) -> list[Path]:
    """Write JPEG files of quality 90 with halved chroma, Pillow's default."""
    paths = [folder / f"{width}x{height}-{seed}.jpg" for seed in range(count)]
    for seed, path in enumerate(paths):
        photo(width, height, seed).save(path, quality=90)
    return paths


class Plain:
    """The official pipeline without RandAugment."""

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        bicubic = transforms.InterpolationMode.BICUBIC
        self.paths = paths
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=(PRETRAIN_CROP, 1.0), interpolation=bicubic),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[row]).convert("RGB"))


def seconds(sample: Callable[[int], Any], rows: int) -> float:
    """Return the CPU time of a pass over the rows."""
    start = time.process_time()
    for row in range(rows):
        sample(row)
    return time.process_time() - start


def measure(paths: Sequence[Path], size: int, rounds: int, official: Path | None, folder: Path) -> Result:
    """Return the times of both sides over the same files.

    Args:
        folder: Gets the list that the official code reads.
    """
    records = [{"image": str(path.resolve()), "caption": CAPTION} for path in paths]
    config = from_dict(YAML(typ="safe").load(presets.content("paper-4m")), Config, "paper-4m")
    ours = PairDataset(
        Rows(records, Images(Path())), size, config.pretrain, PRETRAIN_CROP, config.model.official_quirks
    )
    other: Any = Plain(paths, size)
    if official is not None:
        (folder / "records.json").write_text(json.dumps(records))
        other = pretraining_set(official, folder / "records.json", size)
    sides: dict[str, Callable[[int, int], Any]] = {
        "ours": lambda epoch, row: ours[epoch, row],
        "other": lambda epoch, row: other[row],
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for epoch in range(-1, rounds):  # the first round warms up
        for name in list(sides)[:: 1 if epoch % 2 else -1]:
            time_taken = seconds(lambda row, name=name, epoch=epoch: sides[name](epoch + 1, row), len(paths))
            found[name] += [1e3 * time_taken / len(paths)] if epoch >= 0 else []
    return Result(found["ours"], found["other"])


def difference() -> int:
    """Return the largest difference of our operations from the official ones, in levels."""
    pixels = np.asarray(photo(256, 256, 0))
    largest = 0
    for name, ours in OPERATIONS.items():
        theirs = operation(name, pixels.copy()).transpose(2, 0, 1).astype(int)
        signs = (ours(np.ascontiguousarray(pixels.transpose(2, 0, 1)), sign, True) for sign in (1, -1))
        largest = max(largest, min(int(np.abs(found - theirs).max()) for found in signs))
    return largest


def row_of(source: str, paths: Sequence[Path], result: Result) -> list[Any]:
    """Return a row of the table."""
    bits = 8 * sum(path.stat().st_size for path in paths) / sum(np.prod(Image.open(path).size) for path in paths)
    ours, other = float(np.median(result.ours)), float(np.median(result.other))
    ratios = result.ratios
    ratio = f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return [source, f"{bits:.1f}", f"{other:.2f}", f"{ours:.2f}", f"{1e3 / ours:.0f}", ratio]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="checkout of the official code, whose pipeline is measured")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files to measure instead of synthetic ones")
    parser.add_argument("--sources", nargs="+", default=["1024x768", "640x480"], help="sizes of synthetic photos")
    parser.add_argument("--size", type=int, default=256, help="pixels per side of the result")
    parser.add_argument("--images", type=int, default=32, help="files of a size")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source in [str(args.photos)] if args.photos else args.sources:
            if args.photos:
                paths = sorted(path for path in args.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
            else:
                width, height = map(int, source.split("x"))
                paths = write_photos(folder, width, height, args.images)
            rows.append(row_of(source, paths, measure(paths, args.size, args.rounds, args.official, folder)))
    other = "official" if args.official else "plain"
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}\n")
    print(table([column.format(other=other) for column in HEADER], rows))
    if args.official:
        print(f"\nlargest difference of an operation from the official one: {difference()} of 255")


if __name__ == "__main__":
    main()
