"""The index of a large gallery: inverted lists beside the exact search, on one machine in one run.

    python benchmarks/gallery.py --rows 1000000 --width 256

Features are drawn with a few strong directions, as trained ones have, and queries near them. Printed are ratios of
median times, the share of the exact search's shortlist that is found, and what the process keeps in memory.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from albef.index import faiss_index

K = faiss_index.SHORTLIST


def made_up(rows: int, width: int, queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors: features of ``rows`` pictures, and queries a little off some of them."""
    rng = np.random.default_rng(seed)
    # A few directions say most, as with features of trained models; nothing is in neat clusters.
    axes = rng.standard_normal((width, width), dtype=np.float32) / np.arange(1, width + 1, dtype=np.float32)[:, None]

    def unit(features: np.ndarray) -> np.ndarray:
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    found = unit(rng.standard_normal((rows, width), dtype=np.float32) @ axes)
    near = found[rng.integers(0, rows, queries)]
    return found, unit(near + 0.3 * unit(rng.standard_normal((queries, width), dtype=np.float32) @ axes))


_SEARCH = """
import sys, time, faiss, numpy as np
def kept():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024
faiss.omp_set_num_threads(int(sys.argv[4]))
before, queries, times = kept(), np.load(sys.argv[2]), []
index = faiss.read_index(sys.argv[1], faiss.IO_FLAG_MMAP_IFC)
index.search(queries[:20], int(sys.argv[3]))
for query in queries:
    start = time.perf_counter()
    index.search(query[None], int(sys.argv[3]))
    times.append(time.perf_counter() - start)
print(*np.median(np.reshape(times, (-1, 10)), axis=1), kept() - before)
"""


def searched(index: Path, queries: Path, threads: int) -> tuple[list[float], float]:
    """Median seconds of ten queries each, one by one, and MiB kept, of a process that does nothing else."""
    command = [sys.executable, "-c", _SEARCH, str(index), str(queries), str(K), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *times, memory = map(float, done.stdout.split())
    return times, memory


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    import faiss

    features, queries = made_up(args.rows, args.width, args.queries + 1000)
    tuned, queries = queries[args.queries :], queries[: args.queries]
    rows = np.arange(args.rows)
    start = time.perf_counter()
    lists = faiss_index.build(features, rows, tuned, exact_below=0)
    seconds = time.perf_counter() - start
    exact = faiss_index.build(features, rows, tuned, exact_below=args.rows + 1)
    nearest, found = exact.index.search(queries, K)[1], lists.index.search(queries, K)[1]
    shared = [len(set(a) & set(b)) / K for a, b in zip(nearest, found, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.save(place / "queries.npy", queries)
        sizes = {}
        for name, each in (("exact", exact), ("lists", lists)):
            faiss.write_index(each.index, str(place / name))
            sizes[name] = (place / name).stat().st_size / 2**20
        nlist, nprobe = lists.index.nlist, lists.index.nprobe
        del features, exact, lists
        times: dict[str, list[float]] = {"exact": [], "lists": []}
        memory = {}
        for _ in range(args.rounds):
            for name, each in times.items():
                some, memory[name] = searched(place / name, place / "queries.npy", args.threads)
                each += some
    middle = {name: statistics.median(each) for name, each in times.items()}
    print(f"{args.rows} rows of {args.width}; {nlist} lists, {nprobe} probed; built in {seconds:.0f} s")
    print(f"{'':<8}{'ms/query':>10}{'on disk':>12}{'kept in RAM':>14}")
    for name in times:
        print(f"{name:<8}{1000 * middle[name]:>10.2f}{sizes[name]:>8.0f} MiB{memory[name]:>10.0f} MiB")
    print(f"exact / lists {middle['exact'] / middle['lists']:.1f}, shortlist of {K} found {np.mean(shared):.4f}")


if __name__ == "__main__":
    main()
