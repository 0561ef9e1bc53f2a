"""Benchmark of a large search index: inverted lists against exact search, with and without filters.

    python benchmarks/index.py --rows 1000000 --width 256

Features have a few dominant directions, like those of trained models, and queries are close to some of them. The script
prints the median search time, the fraction of the exact shortlist that is found, the size on disk and memory use. A
search with a filter is measured with the rows of the filter known, as they are after its first use; the time of the
first use is printed, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from albef.index import faiss_index, items, segments

K = faiss_index.SHORTLIST
FILTERS = {"": 1.0, "year >= 2010": 0.5, "year = 2019 AND source = 'wiki'": 1 / 60}
"""Conditions on the metadata, with the fraction of rows that they select."""


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


def write_items(path: Path, rows: int) -> None:
    """Write ids and metadata of ``rows`` images."""
    with closing(items.create(path, None)) as db:
        db.execute("ALTER TABLE images ADD COLUMN year INTEGER")
        db.execute("ALTER TABLE images ADD COLUMN source TEXT")
        items.insert(db, "images", ((row, f"images/{row:08}.jpg") for row in range(rows)))
        db.execute("UPDATE images SET year = 2000 + row % 20, source = iif(row / 20 % 3, 'web', 'wiki')")
        db.commit()


def write_segment(folder: Path, features: np.ndarray) -> segments.Segment:
    """Write a segment of features, with one small token per row."""
    segment = segments.Segment("images-1-0", 0, len(features))
    tokens = np.ones((len(features), 1, 1), np.float16)
    segments.write(folder, segment, [(tokens, features, np.ones((len(features), 1), np.int64))], "float16")
    return dataclasses.replace(segment, bytes=segments.folder_bytes(folder / segment.name))


def search(folder: Path, index: str, threads: int) -> dict[str, dict[str, float]]:
    """Search one query at a time with each filter; return the measures by filter."""
    import faiss

    from albef.index.index import Collection, Manifest, Part

    def anonymous_mib() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024

    faiss.omp_set_num_threads(threads)
    queries, exact = np.load(folder / "queries.npy"), np.load(folder / "exact.npy")
    before = anonymous_mib()
    segment = segments.Segment(**json.loads((folder / "segment.json").read_text()))
    part = Part((segment,), segment.rows)
    images = Collection(folder, "images", Manifest("", "", "float16", int(index), part, Part()))
    result = {}
    for number, where in enumerate(FILTERS):
        start = time.perf_counter()
        selected = images.select(where) if where else None
        first = time.perf_counter() - start
        images.search(queries[:20], K, selected)
        times, found = [], []
        for query in queries:
            start = time.perf_counter()
            found.append(images.search(query[None], K, selected)[1][0])
            times.append(time.perf_counter() - start)
        recalls = [len(set(a) & set(b)) / K for a, b in zip(found, exact[number], strict=True)]
        result[where] = {
            "first": first,
            "median": statistics.median(times),
            "recall": statistics.mean(recalls),
            "memory": anonymous_mib() - before,
        }
    return result


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--search", nargs=2, metavar=("FOLDER", "INDEX"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.search:
        print(json.dumps(search(Path(args.search[0]), args.search[1], args.threads)))
        return
    import faiss

    features, queries = synthetic_features(args.rows, args.width, args.queries + 1000)
    tuning_queries, queries = queries[args.queries :], queries[: args.queries]
    rows = np.arange(args.rows)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number in (0, 1):
            (folder / f"index-{number}").mkdir()
            write_items(folder / f"index-{number}" / items.FILE, args.rows)
        size = (folder / "index-0" / items.FILE).stat().st_size
        start = time.perf_counter()
        lists = faiss_index.build(features, rows, tuning_queries, exact_below=0)
        seconds = time.perf_counter() - start
        faiss.write_index(lists, str(folder / "index-1" / "images.faiss"))
        probed = f"{lists.nlist} lists, {lists.nprobe} probed"
        del lists
        exact = faiss_index.build(features, rows, tuning_queries, exact_below=args.rows + 1)
        faiss.write_index(exact, str(folder / "index-0" / "images.faiss"))
        del exact
        expected = []
        for where in FILTERS:
            selected = np.sort(items.select(folder / "index-0" / items.FILE, "images", where or "1", seconds=600))
            nearest = faiss.knn(queries, features[selected], K, metric=faiss.METRIC_INNER_PRODUCT)[1]
            expected.append(selected[nearest])
        np.save(folder / "exact.npy", expected)
        np.save(folder / "queries.npy", queries)
        (folder / "segment.json").write_text(json.dumps(dataclasses.asdict(write_segment(folder, features))))
        del features
        print(f"{args.rows} rows of {args.width}; {probed}; built in {seconds:.0f} s; metadata {size / 2**20:.0f} MiB")
        print(f"{'':<8}{'ms/query':>10}{'first use':>11}{'found':>9}{'on disk':>12}{'kept in RAM':>14}  filter")
        for number, name in enumerate(("exact", "lists")):
            command = [sys.executable, __file__, "--search", temporary, str(number), "--threads", str(args.threads)]
            measured = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            disk = (folder / f"index-{number}" / "images.faiss").stat().st_size / 2**20
            for where, row in measured.items():
                print(
                    f"{name:<8}{1000 * row['median']:>10.2f}{1000 * row['first']:>8.0f} ms{row['recall']:>9.4f}"
                    f"{disk:>8.0f} MiB{row['memory']:>10.0f} MiB  {where or 'none'}"
                )


if __name__ == "__main__":
    main()
