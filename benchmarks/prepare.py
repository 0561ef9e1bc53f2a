"""Benchmark of `albef prepare` and `albef validate`: time and memory by the number of rows.

    python -m benchmarks.prepare --rows 100000 300000 1000000

The data are official JSON lists of pairs, each with an image file of its own; 10,000 of the files are different.
`of all cores` is processor time, which other programs hardly change. Memory is the peak of a command with all processes
that it starts: `own` is what no file backs, and `all` also has the mapped parts of the tables, which the system can
drop. Memory that processes share counts once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
WORDS = ("red", "green", "blue", "dog", "cat", "bird", "tree", "house", "left", "right", "of", "with", "and", "a", "on")
HELD_OUT = 1_000
"""Images of each evaluation list."""
SECONDS = 0.2
"""Time between two looks at the memory."""


@dataclass(frozen=True)
class Cost:
    """Seconds, those of all cores, and peaks of memory in MiB."""

    seconds: float
    cpu: float
    own: float
    all: float


def contents(number: int, width: int, height: int) -> Iterator[bytes]:
    """Yield different JPEG files of smooth images."""
    for seed in range(number):
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG")
        yield file.getvalue()


def write_raw(folder: Path, rows: int, distinct: int, width: int, height: int) -> None:
    """Write lists and images as downloaded; equal images are hard links."""
    names = [f"{row // 1000:05}/{row:08}.jpg" for row in range(rows)]
    evaluation = {split: [f"{split}/{row}.jpg" for row in range(HELD_OUT)] for split in ("val", "test")}
    for name in {str(Path(name).parent) for name in (*names, *evaluation["val"], *evaluation["test"])}:
        (folder / name).mkdir(parents=True)
    files = contents(distinct + 2 * HELD_OUT, width, height)
    for paths, number in ((names, distinct), *((paths, HELD_OUT) for paths in evaluation.values())):
        for place, path in enumerate(paths):
            if place < number:
                (folder / path).write_bytes(next(files))
            else:
                os.link(folder / paths[place % number], folder / path)
    rng = np.random.default_rng(0)
    with (folder / "pretrain.json").open("w") as file:
        for row, path in enumerate(names):
            caption = " ".join(rng.choice(WORDS, 10))
            file.write(("[" if row == 0 else ",\n") + json.dumps({"image": path, "caption": caption}))
        file.write("]\n")
    for split, paths in evaluation.items():
        records = [{"image": path, "caption": ["a thing"]} for path in paths]
        (folder / f"retrieval_{split}.json").write_text(json.dumps(records))


def write_params(path: Path, max_side: int | None) -> None:
    """Write the demo's parameters with the lists as source."""
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    files = {name: [f"{name}.json"] for name in ("pretrain", "retrieval_val", "retrieval_test")}
    params["prepare"] |= {"source": "lists", "max_side": max_side, "lists": {"image_root": ".", "files": files}}
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def memory(pid: int) -> tuple[float, float]:
    """Return the MiB of a process that no file backs, and all MiB.

    Of memory that n processes share, each has an n-th.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
    return (kib["Pss_Anon"] + kib["Pss_Shmem"]) / 1024, kib["Pss"] / 1024


def cost(*command: str, cores: int) -> Cost:
    """Run a command of the library on some cores."""
    start, own, every, cpu = time.perf_counter(), 0.0, 0.0, dict[int, float]()
    # Ray's processes have a low priority by default, so that other programs would count for more than without Ray.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
    with subprocess.Popen([sys.executable, "-m", "albef.cli", *command], env=environment) as done:
        process = psutil.Process(done.pid)
        process.cpu_affinity(sorted(os.sched_getaffinity(0))[:cores])
        while done.poll() is None:
            sums = [0.0, 0.0]
            for each in (process, *process.children(recursive=True)):
                with contextlib.suppress(OSError, psutil.Error, KeyError):  # it may end at any time
                    cpu[each.pid] = sum(each.cpu_times()[:2])
                    sums = [total + part for total, part in zip(sums, memory(each.pid), strict=True)]
            own, every = max(own, sums[0]), max(every, sums[1])
            time.sleep(SECONDS)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}")
    return Cost(time.perf_counter() - start, sum(cpu.values()), own, every)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--distinct", type=int, default=10_000, help="different images")
    parser.add_argument("--size", type=int, nargs=2, default=[128, 96], metavar=("WIDTH", "HEIGHT"), help="of an image")
    parser.add_argument("--max-side", type=int, help="longer side that `prepare` shrinks images to; default: no change")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to write the data; default: the folder for temporary files")
    args = parser.parse_args(argv)
    print("| rows | command | seconds | of all cores | own (MiB) | all (MiB) |")
    print("|---|---|---|---|---|---|")
    for rows in args.rows:
        with tempfile.TemporaryDirectory(prefix="albef-prepare-", dir=args.folder) as temporary:
            folder = Path(temporary)
            write_raw(folder / "raw", rows, min(args.distinct, rows), *args.size)
            write_params(folder / "params.yaml", args.max_side)
            data, params = str(folder / "data"), ("--params", str(folder / "params.yaml"))
            out, work = str(folder / "validated"), ("--work-dir", str(folder / "work"))
            commands = {
                "prepare": ("prepare", *params, "--raw", str(folder / "raw"), "--out", data, *work),
                "validate": ("validate", *params, "--data", data, "--out", out, *work),
            }
            for name, command in commands.items():
                found = cost(*command, cores=args.cores)
                print(
                    f"| {rows:,} | {name} | {found.seconds:.1f} | {found.cpu:.1f} "
                    f"| {found.own:,.0f} | {found.all:,.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
