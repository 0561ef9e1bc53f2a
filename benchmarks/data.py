"""Benchmark of training data in memory: tables and streams against JSON lists.

    python -m benchmarks.data --rows 10000 100000 1000000 5000000 --json-rows 10000 100000 1000000

Each row of the output is a process that loads batches of pretraining pairs as training does. Memory is that of the
training process and of its largest loading process; what they share of files is left out, as the system can drop it.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from albef.config import TokenizerConfig, load
from albef.data import tokenizer
from albef.data.datasets import PRETRAIN_CROP
from albef.data.files import write_list
from albef.data.image_text import PairDataset
from albef.data.lists import IMAGE_FOLDER, Images, Lists
from albef.data.loader import TrainLoader
from albef.data.stream import StreamSpec, spec_of
from albef.data.stream_loader import StreamLoader, StreamSet
from albef.data.tables import ImageWriter, write_records
from albef.data.tokenizer import Encoder
from albef.io import write_file

WORDS = ("red", "green", "blue", "dog", "cat", "bird", "tree", "house", "left", "right", "of", "with", "and", "a", "on")
DISTINCT = 100
"""Different images; a table has one of them in each row."""


@dataclass(frozen=True)
class Result:
    """Measurements of one process; memory in MiB."""

    kind: str
    rows: int
    seconds_to_first_batch: float
    images_per_second: float
    rank: float
    worker: float
    tree: float


def records(rows: int) -> Iterator[dict[str, Any]]:
    """Yield pairs of image and caption."""
    rng = np.random.default_rng(0)
    for start in range(0, rows, 10_000):
        words = rng.choice(WORDS, (min(10_000, rows - start), 10))
        for row, caption in enumerate(words, start):
            yield {"image": f"{row:09}.jpg", "caption": " ".join(caption), "image_id": row}


def contents() -> list[bytes]:
    """Return small JPEG files."""
    files = []
    for seed in range(DISTINCT):
        pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((64, 64)).save(file, "JPEG")
        files.append(file.getvalue())
    return files


def write_tables(folder: Path, rows: int) -> None:
    """Write the tables of a data set."""
    files = contents()
    with ImageWriter(folder / IMAGE_FOLDER) as writer:
        for row in range(rows):
            writer.add(f"{row:09}.jpg", files[row % DISTINCT])
    write_records(folder / "pretrain.arrow", ((record, [row]) for row, record in enumerate(records(rows))))


def write_json(folder: Path, rows: int) -> None:
    """Write a JSON list; its rows share the files of a few images."""
    for number, file in enumerate(contents()):
        (folder / f"{number}.jpg").write_bytes(file)
    write_list(
        folder / "pretrain.json",
        [record | {"image": f"{row % DISTINCT}.jpg"} for row, record in enumerate(records(rows))],
    )


def write_stream(folder: Path, rows: int) -> None:
    """Write WebDataset files of a thousand pairs and the manifest of a stream."""
    files, shards, pairs = contents(), [], enumerate(records(rows))
    while batch := list(islice(pairs, 1000)):
        shards.append(folder / f"{len(shards):05}.tar")
        with tarfile.open(shards[-1], "w") as archive:
            for row, record in batch:
                for ending, data in (("jpg", files[row % DISTINCT]), ("txt", record["caption"].encode())):
                    member = tarfile.TarInfo(f"{row:09}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    spec = StreamSpec([str(shard) for shard in shards], rows, 4, 256, None, None, 0.0)
    write_file(folder / "manifest.json", json.dumps({"stream": asdict(spec)}))


def anonymous(pid: int | str) -> float:
    """Return the MiB of a process's memory that no file backs."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def private_dirty(pid: int | str) -> float:
    """Return the MiB of a process's memory that it shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Private_Dirty")).split()[1]) / 1024


def measure(kind: str, folder: Path, rows: int, workers: int, epochs: int, batches: int) -> Result:
    """Load batches of a data set in this process and its loading processes."""
    import psutil

    config = load(Path(__file__).parents[1] / "params.yaml")
    encoder = Encoder.from_file(folder / "tokenizer" / "tokenizer.json")
    train = replace(config.pretrain, batch_size=64, num_workers=workers, augment="none")
    start = time.perf_counter()
    loader: TrainLoader | StreamLoader
    if (spec := spec_of(folder)) is not None:
        loader = StreamLoader(StreamSet(spec, Images(folder), config.model, train, PRETRAIN_CROP), encoder, train)
    else:
        loader = TrainLoader(PairDataset.of(Lists(folder, folder)["pretrain"], config.model, train), encoder, train)
    first = loaded = 0.0
    for epoch in range(epochs):
        for number, _ in enumerate(loader.batches(epoch)):
            first = first or time.perf_counter() - start
            loaded += train.batch_size
            if number + 1 == batches:
                break
    rate = loaded / (time.perf_counter() - start - first)
    children = [child.pid for child in psutil.Process().children()]
    own = [private_dirty(pid) for pid in children]
    return Result(kind, rows, first, rate, anonymous("self"), max(own, default=0.0), anonymous("self") + sum(own))


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--stream-rows", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--json-rows", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batches", type=int, default=150, help="batches of an epoch")
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        kind, folder = args.measure
        result = measure(kind, Path(folder), args.rows[0], args.workers, args.epochs, args.batches)
        print(json.dumps(asdict(result)))
        return
    print("| data | rows | first batch (s) | images/s | rank (MiB) | worker (MiB) | all (MiB) |")
    print("|---|---|---|---|---|---|---|")
    kinds = {"tables": (write_tables, args.rows), "stream": (write_stream, args.stream_rows)}
    kinds |= {"JSON": (write_json, args.json_rows)}
    for kind, rows in [(kind, rows) for kind, (_, sizes) in kinds.items() for rows in sizes]:
        with tempfile.TemporaryDirectory(prefix="albef-data-") as temporary:
            folder = Path(temporary)
            kinds[kind][0](folder, rows)
            words = folder / "words"
            write_list(words / "pretrain.json", list(records(200)))
            tokenizer.run(TokenizerConfig(kind="wordpiece", vocab_size=256), words, folder / "tokenizer")
            options = [f"--{key}={getattr(args, key)}" for key in ("workers", "epochs", "batches")]
            command = [sys.executable, "-m", "benchmarks.data", "--measure", kind, str(folder), f"--rows={rows}"]
            done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
            found = Result(**json.loads(done.stdout.splitlines()[-1]))
            print(
                f"| {kind} | {rows:,} | {found.seconds_to_first_batch:.1f} | {found.images_per_second:,.0f} "
                f"| {found.rank:,.0f} | {found.worker:,.0f} | {found.tree:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
