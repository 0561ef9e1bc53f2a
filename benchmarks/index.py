"""Benchmark of a large search index: inverted lists against exact search.

    python benchmarks/index.py --rows 1000000 --width 256

Features have a few dominant directions, like those of trained models, and queries are close to some of them. The script
prints the ratio of median search times, the fraction of the exact shortlist that the lists find, and memory use.
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


def synthetic_features(rows: int, width: int, queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors: ``rows`` features, and queries close to some of them."""
    rng = np.random.default_rng(seed)
    # Like features of trained models: a few directions dominate, and there are no separated clusters.
    axes = rng.standard_normal((width, width), dtype=np.float32) / np.arange(1, width + 1, dtype=np.float32)[:, None]

    def unit(features: np.ndarray) -> np.ndarray:
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    features = unit(rng.standard_normal((rows, width), dtype=np.float32) @ axes)
    targets = features[rng.integers(0, rows, queries)]
    return features, unit(targets + 0.3 * unit(rng.standard_normal((queries, width), dtype=np.float32) @ axes))


_SEARCH = """
import sys, time, faiss, numpy as np
def anonymous_mib():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024
faiss.omp_set_num_threads(int(sys.argv[4]))
before, queries, times = anonymous_mib(), np.load(sys.argv[2]), []
index = faiss.read_index(sys.argv[1], faiss.IO_FLAG_MMAP_IFC)
index.search(queries[:20], int(sys.argv[3]))
for query in queries:
    start = time.perf_counter()
    index.search(query[None], int(sys.argv[3]))
    times.append(time.perf_counter() - start)
print(*np.median(np.reshape(times, (-1, 10)), axis=1), anonymous_mib() - before)
"""


def search_times(index: Path, queries: Path, threads: int) -> tuple[list[float], float]:
    """Search one query at a time in a separate process.

    Returns:
        Median seconds of each ten queries, and the MiB of anonymous memory that the index added.
    """
    command = [sys.executable, "-c", _SEARCH, str(index), str(queries), str(K), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *times, memory = map(float, done.stdout.split())
    return times, memory


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    import faiss

    features, queries = synthetic_features(args.rows, args.width, args.queries + 1000)
    tuning_queries, queries = queries[args.queries :], queries[: args.queries]
    rows = np.arange(args.rows)
    start = time.perf_counter()
    lists = faiss_index.build(features, rows, tuning_queries, exact_below=0)
    seconds = time.perf_counter() - start
    exact = faiss_index.build(features, rows, tuning_queries, exact_below=args.rows + 1)
    expected, found = exact.index.search(queries, K)[1], lists.index.search(queries, K)[1]
    recalls = [len(set(a) & set(b)) / K for a, b in zip(expected, found, strict=True)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "queries.npy", queries)
        sizes = {}
        for name, built in (("exact", exact), ("lists", lists)):
            faiss.write_index(built.index, str(folder / name))
            sizes[name] = (folder / name).stat().st_size / 2**20
        nlist, nprobe = lists.index.nlist, lists.index.nprobe
        del features, exact, lists
        times: dict[str, list[float]] = {"exact": [], "lists": []}
        memory = {}
        for _ in range(args.rounds):
            for name, measured in times.items():
                seconds_of_round, memory[name] = search_times(folder / name, folder / "queries.npy", args.threads)
                measured += seconds_of_round
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    print(f"{args.rows} rows of {args.width}; {nlist} lists, {nprobe} probed; built in {seconds:.0f} s")
    print(f"{'':<8}{'ms/query':>10}{'on disk':>12}{'kept in RAM':>14}")
    for name in times:
        print(f"{name:<8}{1000 * medians[name]:>10.2f}{sizes[name]:>8.0f} MiB{memory[name]:>10.0f} MiB")
    print(f"exact / lists {medians['exact'] / medians['lists']:.1f}, shortlist of {K} found {np.mean(recalls):.4f}")


if __name__ == "__main__":
    main()
