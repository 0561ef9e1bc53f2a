"""Load benchmarks of served endpoints; see benchmarks/README.md.

    python -m benchmarks.serving endpoints --repository artifacts/repository [--concurrency 1 4 16 64] [--json FILE]
    python -m benchmarks.serving graphs --repository artifacts/repository
    python -m benchmarks.serving soak --repository artifacts/repository [--minutes 10]
    python -m benchmarks.serving overload --repository artifacts/repository [--factor 2] [--seconds 60]
    python -m benchmarks.serving priority --repository artifacts/repository [--concurrency 16] [--seconds 20]
    python -m benchmarks.serving cache --repository artifacts/repository
    python -m benchmarks.serving precision --repository artifacts/repository --artifacts artifacts

The two sides of a comparison alternate within one run.
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
from albef.tasks import registry
from benchmarks.load import cache, endpoints, graphs, machine, overload, precision, priority, soak, variants
from benchmarks.load.loop import Load, line, table
from benchmarks.load.questions import KINDS, SIZE


def _print_comparisons(comparisons: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Print results as they arrive; return them, and 1 if a request failed."""
    results = []
    for result in comparisons:
        if not results:
            print(table(endpoints.HEADER, []))
        results.append(result)
        print(line(endpoints.row(result)), flush=True)
    return results, int(any(result["server"]["failures"] for result in results))


def _load(args: argparse.Namespace) -> Load:
    return Load(args.concurrency, args.rounds, args.seconds, args.images, args.size)


def _endpoints(args: argparse.Namespace) -> tuple[Any, int]:
    results, code = _print_comparisons(endpoints.measure(args.repository, _kinds(args), _load(args)))
    if args.profile:
        print("", *map(endpoints.profile, results), sep="\n\n")
    return results, code


def _graphs(args: argparse.Namespace) -> tuple[Any, int]:
    return _print_comparisons(graphs.measure(args.repository, runtime.ensure(), _kinds(args), _load(args)))


def _soak(args: argparse.Namespace) -> tuple[Any, int]:
    result = soak.run(
        args.repository,
        _kinds(args),
        args.concurrency[0],
        60 * args.minutes,
        args.every,
        args.images,
        args.size,
        args.cache_mib * 2**20,
        args.gateway,
        args.kills,
    )
    print(soak.report(result))
    return result, int(bool(result["failures"]))


def _overload(args: argparse.Namespace) -> tuple[Any, int]:
    (kind,) = _kinds(args)[:1]
    results = overload.measure(args.repository, kind, args.factor, args.seconds, args.deadline, args.images, args.size)
    print(table(overload.HEADER, map(overload.row, results)))
    return results, 0


def _priority(args: argparse.Namespace) -> tuple[Any, int]:
    (kind,), (bulk,) = _kinds(args)[:1], args.concurrency
    results = priority.measure(args.repository, kind, bulk, args.seconds, args.images, args.size)
    print(table(priority.HEADER, map(priority.row, results)))
    runs = [{**each, "callers": vars(each["callers"]), "others": vars(each["others"])} for each in results]
    return runs, int(any(each["callers"].failures or each["others"].failures for each in results))


def _cache(args: argparse.Namespace) -> tuple[Any, int]:
    results = [
        cache.measure(args.repository, name, args.images, args.again, args.size)
        for name in _kinds(args)
        if not name.endswith("-text")  # has no image
    ]
    print(table(cache.HEADER, map(cache.row, results)))
    return results, 0


def _precision(args: argparse.Namespace) -> tuple[Any, int]:
    kinds = _kinds(args)
    tasks = list(dict.fromkeys(registry.endpoint(KINDS[name].endpoint).task for name in kinds))
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
    available = endpoints.available_kinds(args.repository)
    if not available:
        raise SystemExit(f"{args.repository}: no endpoint here, expected a folder written by `albef repository`")
    if unknown := set(args.only or available) - set(available):
        raise SystemExit(
            f"--only: {args.repository} has no {', '.join(sorted(unknown))}, expected {', '.join(available)}"
        )
    return [name for name in available if name in (args.only or available)]


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


def parser() -> argparse.ArgumentParser:
    """Return the command line parser."""
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = root.add_subparsers(dest="command", required=True)

    def add(name: str, function: object, about: str, concurrency: list[int], images: int) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(function=function)
        command.add_argument("--repository", type=Path, required=True, help="model repository")
        command.add_argument("--only", nargs="+", help="kinds of requests (default: all of the repository)")
        command.add_argument("--concurrency", type=int, nargs="+", default=concurrency, help="concurrent requests")
        command.add_argument("--images", type=int, default=images, help="number of distinct images")
        command.add_argument("--size", type=_size, default=SIZE, metavar="WxH", help="size of the images")
        command.add_argument("--json", type=Path, help="file for the results")
        return command

    load = add(
        "endpoints", _endpoints, "compare endpoints on the server with endpoints in process", [1, 4, 16, 64], 128
    )
    load.add_argument("--rounds", type=int, default=5, help="rounds per side")
    load.add_argument(
        "--seconds", type=float, default=4, help="duration of a round; each caller sends at least one request"
    )
    load.add_argument("--profile", action="store_true", help="print the time spent in each graph")
    beyond = add("overload", _overload, "offer more requests than can be answered, at random times", [16], 64)
    beyond.add_argument("--factor", type=float, default=2, help="offered requests as a multiple of the capacity")
    beyond.add_argument("--seconds", type=float, default=60, help="duration of the overload")
    beyond.add_argument("--deadline", type=float, default=5, help="seconds in which an answer is of use")
    ranked = add("priority", _priority, "measure two callers beside bulk work of both priorities", [16], 64)
    ranked.add_argument("--seconds", type=float, default=20, help="duration of each measurement")
    alone = add(
        "graphs",
        _graphs,
        "compare each ONNX graph on the server (perf_analyzer) with the graph in process",
        [1, 4, 16, 64],
        8,
    )
    alone.add_argument("--rounds", type=int, default=3, help="rounds per side")
    alone.add_argument("--seconds", type=float, default=3, help="approximate duration of a round")
    long = add("soak", _soak, "send all kinds of requests for a long time; fail if a request fails", [16], 1024)
    long.add_argument("--minutes", type=float, default=10, help="duration")
    long.add_argument("--every", type=float, default=5, help="seconds between memory measurements")
    long.add_argument("--cache-mib", type=int, default=4, help="size of the response cache; small, to force evictions")
    long.add_argument("--gateway", action="store_true", help="put nginx in front, with TLS and a token")
    long.add_argument("--kills", type=int, default=0, help="number of kills of each kind of process meanwhile")
    again = add(
        "cache", _cache, "measure repeated questions about an image, with and without the response cache", [1], 24
    )
    again.add_argument("--again", type=int, default=3, help="further questions about each image")
    small = add("precision", _precision, "measure speed and task metrics of int8 and fp16 graphs", [1], 1)
    small.add_argument("--variants", nargs="+", choices=variants.VARIANTS, default=list(variants.VARIANTS))
    small.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="rows per call")
    small.add_argument("--rounds", type=int, default=30, help="runs per side")
    small.add_argument(
        "--artifacts", type=Path, help="artifacts of the pipeline, for its test lists (default: speed only)"
    )
    small.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters of the artifacts")
    small.add_argument("--limit", type=int, help="rows per test list (default: all)")
    return root


def main() -> int:
    """Run a benchmark; exit with code 1 if a request failed."""
    args = parser().parse_args()
    description = machine.describe(runtime.ensure())
    print(machine.heading(description) + "\n", flush=True)
    result, code = args.function(args)
    if args.json:
        text = json.dumps({"machine": description, "results": result}, indent=1)
        args.json.write_text(text + "\n", encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
