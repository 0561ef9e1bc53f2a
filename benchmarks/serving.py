"""Load on the served endpoints beside the same work in this process; see benchmarks/README.md.

    python -m benchmarks.serving endpoints --repository artifacts/repository [--concurrency 1 4 16 64] [--json FILE]
    python -m benchmarks.serving graphs --repository artifacts/repository
    python -m benchmarks.serving soak --repository artifacts/repository [--minutes 10]
    python -m benchmarks.serving cache --repository artifacts/repository
    python -m benchmarks.serving precision --repository artifacts/repository --artifacts artifacts

Both sides of a comparison take turns in one run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from albef import config as configuration
from albef.serving import runtime
from benchmarks.load import cache, endpoints, graphs, machine, precision, soak, variants
from benchmarks.load.loop import Load, line, table
from benchmarks.load.questions import KINDS, SIZE


def _beside(found: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The results, each printed when it is there, and 1 where a request failed."""
    results = []
    for result in found:
        if not results:
            print(table(endpoints.HEADER, []))
        results.append(result)
        print(line(endpoints.row(result)), flush=True)
    return results, int(any(result["server"]["failures"] for result in results))


def _load(args: argparse.Namespace) -> Load:
    return Load(args.concurrency, args.rounds, args.seconds, args.pictures, args.size)


def _endpoints(args: argparse.Namespace) -> tuple[Any, int]:
    results, code = _beside(endpoints.measure(args.repository, _kinds(args), _load(args)))
    if args.profile:
        print("", *map(endpoints.profile, results), sep="\n\n")
    return results, code


def _graphs(args: argparse.Namespace) -> tuple[Any, int]:
    return _beside(graphs.measure(args.repository, runtime.ensure(), _kinds(args), _load(args)))


def _soak(args: argparse.Namespace) -> tuple[Any, int]:
    result = soak.run(
        args.repository,
        _kinds(args),
        args.concurrency[0],
        60 * args.minutes,
        args.every,
        args.pictures,
        args.size,
        args.cache_mib * 2**20,
    )
    print(soak.report(result))
    return result, int(bool(result["failures"]))


def _cache(args: argparse.Namespace) -> tuple[Any, int]:
    results = [
        cache.measure(args.repository, name, args.pictures, args.again, args.size)
        for name in _kinds(args)
        if name != "retrieval-text"  # has no picture
    ]
    print(table(cache.HEADER, map(cache.row, results)))
    return results, 0


def _precision(args: argparse.Namespace) -> tuple[Any, int]:
    kinds = _kinds(args)
    tasks = list(dict.fromkeys(KINDS[name].endpoint for name in kinds))
    print(f"bf16: {variants.bf16_kernel() or 'has a kernel'}\n")
    speeds, losses = [], []
    print(table(precision.SPEED, []))
    for result in precision.measure(args.repository, kinds, tasks, args.variants, args.batches, args.rounds, args.size):
        speeds.append(result)
        print(line(precision.speed_row(result)), flush=True)
    if args.artifacts:
        print("\n" + table(precision.LOSS, []))
        config = configuration.load(args.params)
        for result in precision.accuracy(config, args.artifacts, args.repository, tasks, args.variants, args.limit):
            losses.append(result)
            print(line(precision.loss_row(result)), flush=True)
    return {"speed": speeds, "loss": losses}, 0


def _kinds(args: argparse.Namespace) -> list[str]:
    have = endpoints.served(args.repository)
    if not have:
        raise SystemExit(f"{args.repository}: no endpoint here, expected a folder written by `albef repository`")
    if unknown := set(args.only or have) - set(have):
        raise SystemExit(f"--only: no {', '.join(sorted(unknown))} in {args.repository}, expected {', '.join(have)}")
    return [name for name in have if name in (args.only or have)]


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = root.add_subparsers(dest="command", required=True)

    def add(name: str, function: object, about: str, concurrency: list[int], pictures: int) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(function=function)
        command.add_argument("--repository", type=Path, required=True, help="as `albef repository` writes it")
        command.add_argument("--only", nargs="+", help="kinds of requests; by default all that it answers")
        command.add_argument("--concurrency", type=int, nargs="+", default=concurrency)
        command.add_argument("--pictures", type=int, default=pictures, help="different ones")
        command.add_argument("--size", type=_size, default=SIZE, metavar="WxH", help="of the pictures")
        command.add_argument("--json", type=Path, help="write the figures here too")
        return command

    load = add("endpoints", _endpoints, "closed-loop load, server and in process in turn", [1, 4, 16, 64], 128)
    load.add_argument("--rounds", type=int, default=5, help="turns of each side")
    load.add_argument("--seconds", type=float, default=4, help="of a turn; every caller asks once at the least")
    load.add_argument("--profile", action="store_true", help="print where the time goes, graph by graph")
    alone = add("graphs", _graphs, "perf_analyzer on each ONNX graph, in process in turn", [1, 4, 16, 64], 8)
    alone.add_argument("--rounds", type=int, default=3, help="turns of each side")
    alone.add_argument("--seconds", type=float, default=3, help="of a turn, about")
    long = add("soak", _soak, "all kinds mixed for long; fails if a request does", [16], 1024)
    long.add_argument("--minutes", type=float, default=10)
    long.add_argument("--every", type=float, default=5, help="seconds between two looks at the memory")
    long.add_argument("--cache-mib", type=int, default=4, help="of the response cache: small, so that it throws away")
    again = add("cache", _cache, "pictures asked about again, with the response cache and without", [1], 24)
    again.add_argument("--again", type=int, default=3, help="further questions about each picture")
    small = add("precision", _precision, "graphs in int8 and half precision: speed, and what the tasks lose", [1], 1)
    small.add_argument("--variants", nargs="+", choices=variants.VARIANTS, default=list(variants.VARIANTS))
    small.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    small.add_argument("--rounds", type=int, default=30, help="runs of each side")
    small.add_argument("--artifacts", type=Path, help="of the pipeline, for its test lists; without them speed alone")
    small.add_argument("--params", type=Path, default=Path("params.yaml"), help="those of the artifacts")
    small.add_argument("--limit", type=int, help="rows of a test list")
    return root


def main() -> int:
    """Run one; exit code 1 where a request failed."""
    args = parser().parse_args()
    described = machine.describe(runtime.ensure())
    print(machine.heading(described) + "\n", flush=True)
    result, code = args.function(args)
    if args.json:
        text = json.dumps({"machine": described, "results": result}, indent=1)
        args.json.write_text(text + "\n", encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
