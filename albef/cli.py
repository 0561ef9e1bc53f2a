"""Command line: one subcommand per pipeline stage, and asking the served model. Nothing else lives here."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from albef import config as configuration

# Telemetry of every dependency is off unless the user turned it on.
_QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def _prepare(args: argparse.Namespace) -> None:
    from albef.datasets import prepare

    prepare.run(configuration.load(args.params).prepare, args.raw, args.out)


def _inspect(args: argparse.Namespace) -> None:
    from albef.validation import raw

    config = configuration.load(args.params)
    raw.run(config.prepare, config.validate, args.raw, args.out)


def _validate(args: argparse.Namespace) -> None:
    from albef.validation import gate

    gate.run(configuration.load(args.params).validate, args.data, args.out)


def _tokenizer(args: argparse.Namespace) -> None:
    from albef.data import tokenizer

    tokenizer.run(configuration.load(args.params).tokenizer, args.lists, args.out)


def _train(args: argparse.Namespace) -> None:
    from albef.training import run

    config = configuration.load(args.params)
    if args.tuned:
        found = configuration.train_values(configuration.read(args.tuned), args.task, str(args.tuned))
        config = configuration.overlay(config, found)
    run.run(
        config,
        args.task,
        args.lists,
        args.images,
        args.tokenizer,
        args.out,
        init=args.init,
        scratch=args.scratch,
        tracking_uri=args.tracking_uri,
    )


def _tune(args: argparse.Namespace) -> None:
    from albef.tuning import search

    folders = (args.lists, args.images, args.tokenizer, args.init, args.out, args.scratch)
    found = search.run(configuration.load(args.params), args.task, *folders, args.tracking_uri)
    if found.trials:
        before, best = found.before, found.best
        setting = ", ".join(f"{key}={value:.4g}" for key, value in best.setting.items())
        print(f"{found.task}: {found.metric} {before.best:.4f} before, {best.best:.4f} with {setting}")


def _evaluate(args: argparse.Namespace) -> None:
    from albef.tasks import evaluation

    config = configuration.load(args.params)
    evaluation.run(config, args.task, args.model, args.lists, args.images, args.tokenizer, args.out)


def _export(args: argparse.Namespace) -> None:
    from albef.export import onnx

    onnx.run(configuration.load(args.params), args.task, args.model, args.tokenizer, args.out)


def _repository(args: argparse.Namespace) -> None:
    from albef.export import repository

    config = configuration.load(args.params)
    repository.run(config, args.export, args.lists, args.images, args.tokenizer, args.out)


def _index(args: argparse.Namespace) -> None:
    from albef.index import commands

    if args.action in ("build", "add"):
        source = commands.Source(args.folder, args.list, args.images, args.skip_unreadable)
        if args.action == "build":
            commands.build(args.repository, source, args.dtype, args.model_version)
        else:
            commands.add(args.repository, source, args.model_version)
    elif args.action == "remove":
        commands.remove(args.repository, args.ids, args.captions, args.model_version)
    print(commands.describe(args.repository, args.model_version))


def _reference(args: argparse.Namespace) -> None:
    from albef.drift import reference

    rows = configuration.load(args.params).drift.reference_rows
    reference.run(rows, args.out, args.lists, args.images, args.tokenizer, args.sample)


def _drift(args: argparse.Namespace) -> None:
    from albef.drift import check

    found = check.run(configuration.load(args.params).drift, args.sample, args.reference, args.out)
    print(found.text())
    if found.drifted:
        raise SystemExit(check.DRIFTED)


def _report(args: argparse.Namespace) -> None:
    from albef import report

    report.run(args.artifacts, args.images, args.out, args.tracking_uri, args.scratch)


def _deliver(args: argparse.Namespace) -> None:
    from albef.tracking.tracker import deliver

    print(f"{deliver(args.tracking_uri, args.scratch)} runs delivered")


def _ablate(args: argparse.Namespace) -> None:
    from albef.ablation import run

    run.run(configuration.load(args.params), args.raw, args.out, args.seeds, args.tasks or run.TASKS)


def _import_checkpoint(args: argparse.Namespace) -> None:
    from albef.weights import convert

    convert.import_official(configuration.load(args.params), args.source, args.out, args.task)


def _export_checkpoint(args: argparse.Namespace) -> None:
    from albef.weights import convert

    convert.export_official(args.model, args.out, args.student_only)


def _preset(args: argparse.Namespace) -> None:
    from albef import presets

    if args.name is None:
        presets.show()
    else:
        presets.write(args.name, args.out, args.force)


def _quantize(args: argparse.Namespace) -> None:
    from albef.export import quantize

    folders = (args.export, args.lists, args.images, args.tokenizer, args.repository, args.out)
    changes = quantize.run(configuration.load(args.params), *folders, args.max_loss, args.limit)
    print(quantize.show(changes))
    if args.json:
        args.json.write_text(quantize.as_json(changes), encoding="utf-8")


def _serve(args: argparse.Namespace) -> None:
    from albef.serving import server

    server.serve(
        args.repository,
        http_port=args.http_port,
        grpc_port=args.grpc_port,
        metrics_port=args.metrics_port,
        log=args.log,
        explicit=args.explicit,
        log_requests=args.log_requests,
        trace=args.trace,
        sample=args.sample_requests,
        sample_share=args.sample_share,
    )


def _release(args: argparse.Namespace) -> None:
    from albef.serving import release

    probes = release.read_probes(args.probes) if args.probes else []
    print(f"version {release.release(args.repository, args.new, args.url, probes, args.model_version)} answers")


def _rollback(args: argparse.Namespace) -> None:
    from albef.serving import release

    print(f"version {release.rollback(args.repository, args.url)} answers")


def _trace(args: argparse.Namespace) -> None:
    from albef.serving import trace

    print(trace.show(args.file, args.request, args.last))


def _folders(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        parser.add_argument(f"--{name}", type=Path, required=True)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from albef.registry import commands as registry_commands
    from albef.serving import commands as ask_commands

    root = argparse.ArgumentParser(prog="albef", description=__doc__)
    root.add_argument("-v", "--verbose", action="store_true", help="log more")
    commands = root.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")

    def add(name: str, function: object, text: str, *folders: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[common])
        command.set_defaults(function=function)
        _folders(command, *folders)
        return command

    add("inspect", _inspect, "expectations of the raw data, data docs", "raw", "out")
    add("prepare", _prepare, "compose the built-in world, or collect JSON lists", "raw", "out")
    add("validate", _validate, "the data gate: expectations, data docs, clean lists", "data", "out")
    add("tokenizer", _tokenizer, "train or convert the tokenizer", "lists", "out")
    inputs = ("lists", "images", "tokenizer")
    pretrain = add("pretrain", _train, "pretrain with ITC, ITM, MLM and momentum distillation", *inputs, "out")
    pretrain.set_defaults(task="pretrain", init=None)
    finetune = add("finetune", _train, "fine-tune a task from a pretrained model", *inputs, "init", "out")
    finetune.add_argument("task")
    finetune.add_argument("--tuned", type=Path, help="parameters in place of those of the file, as `albef tune` writes")
    pretrain.set_defaults(tuned=None)
    tune = add("tune", _tune, "search the hyper-parameters of a task with Ray Tune", *inputs, "init", "out")
    tune.add_argument("task")
    add("evaluate", _evaluate, "metrics and plots of a task on its test split", *inputs, "model", "out").add_argument(
        "task"
    )
    add("export", _export, "ONNX graphs with a parity gate", "tokenizer", "model", "out").add_argument("task")
    add("repository", _repository, "the Triton model repository with its gallery", *inputs, "export", "out")
    small = add("quantize", _quantize, "a model repository in int8, if the tasks lose little by it", *inputs, "export")
    _folders(small, "repository", "out")
    small.add_argument("--max-loss", type=float, default=0.01, help="that any test metric may lose, 0 to 1")
    small.add_argument("--limit", type=int, help="rows of each test list; by default all")
    small.add_argument("--json", type=Path, help="write the metrics here too")
    reference = add("reference", _reference, "what the training sets, or served requests, look like", "out")
    for name, text in (
        ("lists", "folder of the training lists"),
        ("images", "what `albef prepare` wrote"),
        ("tokenizer", "folder of the tokenizer"),
        ("sample", "of `albef serve --sample-requests`: for confidence; without lists, for everything"),
    ):
        reference.add_argument(f"--{name}", type=Path, help=text)
    add("drift", _drift, "compare served requests with a reference; exit code 3: drifted", "sample", "reference", "out")
    report = add("report", _report, "an HTML page of metrics, curves and pictures", "artifacts", "images", "out")
    deliver = commands.add_parser("deliver", help="send MLflow what it did not take from earlier runs")
    deliver.set_defaults(function=_deliver)
    for command in (pretrain, finetune, tune, report, deliver):
        left = "checkpoints" if command in (pretrain, finetune, tune) else "what MLflow does not take"
        command.add_argument("--scratch", type=Path, default=Path("scratch"), help=f"folder for {left}")
        command.add_argument("--tracking-uri", help="MLflow store; 'none' tracks nothing")
    ablate = add("ablate", _ablate, "the paper's ablation (table 1) on own data", "raw", "out")
    ablate.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one repetition each")
    ablate.add_argument("--tasks", nargs="+", help="columns of the table; by default all")
    official = add("import-checkpoint", _import_checkpoint, "read a checkpoint in the official layout", "out")
    official.add_argument("source", type=Path)
    official.add_argument("--task", help="write the model of this task, started from the checkpoint")
    student = add("export-checkpoint", _export_checkpoint, "write a model in the official layout", "model", "out")
    student.add_argument("--student-only", action="store_true", help="leave out the momentum teacher and the queue")
    preset = commands.add_parser("preset", help="write a ready-made parameter file, or list those there are")
    preset.set_defaults(function=_preset)
    preset.add_argument("name", nargs="?")
    preset.add_argument("--out", type=Path, default=Path("params.yaml"), help="file to write")
    preset.add_argument("--force", action="store_true", help="replace a file that is there")
    serve = add("serve", _serve, "serve a model repository with a local Triton on loopback")
    serve.add_argument(
        "--repository", required=True, help="a folder, or s3://http://HOST:PORT/BUCKET/FOLDER with AWS_* variables set"
    )
    serve.add_argument("--http-port", type=int, default=8000)
    serve.add_argument("--grpc-port", type=int, default=8001)
    serve.add_argument("--metrics-port", type=int, default=8002)
    serve.add_argument("--log", type=Path, help="file for the server's log")
    serve.add_argument("--log-requests", action="store_true", help="log every request, not mistakes and failures alone")
    serve.add_argument("--trace", type=Path, help="file for the timestamps of requests; `albef trace` reads it")
    serve.add_argument(
        "--sample-requests", type=Path, help="folder for figures of some requests; `albef drift` reads it"
    )
    serve.add_argument("--sample-share", type=float, default=0.1, help="of the requests, above 0 and at most 1")
    serve.add_argument("--explicit", action="store_true", help="models are loaded on request, as `albef release` does")
    release = add(
        "release", _release, "load a new version beside the served one, try it, let it take over", "repository"
    )
    release.add_argument("--new", type=Path, required=True, help="model repository with the new version")
    release.add_argument("--probes", type=Path, help="JSON list of questions that it has to answer")
    release.add_argument("--model-version", type=int, help="its number; by default the next")
    rollback = add("rollback", _rollback, "go back to the version before the served one", "repository")
    for command in (release, rollback):
        command.add_argument("--url", default="127.0.0.1:8001", help="gRPC address of the server")
    trace = commands.add_parser("trace", help="where the time of requests went, from the file of `albef serve --trace`")
    trace.set_defaults(function=_trace)
    trace.add_argument("file", type=Path)
    trace.add_argument("--request", help="id of a request, as in the server's log")
    trace.add_argument("--last", type=int, default=1, help="or this many, the last ones")
    registry_commands.add(commands.add_parser("registry", help="versions of the served models in MLflow"))
    _index_commands(commands.add_parser("index", help="the gallery that retrieval searches"))
    ask_commands.add(commands.add_parser("ask", help="ask the served model"))
    return root


def _index_commands(command: argparse.ArgumentParser) -> None:
    commands = command.add_subparsers(dest="action", required=True)
    for name, text in (
        ("build", "a new gallery in place of the one that is there"),
        ("add", "add pictures and captions; a picture whose id is there takes its place"),
        ("remove", "take out pictures by id, or captions by text"),
        ("show", "what is in the gallery"),
    ):
        action = commands.add_parser(name, help=text, description=text)
        action.set_defaults(function=_index)
        action.add_argument("--repository", type=Path, required=True, help="model repository")
        action.add_argument("--model-version", type=int, help="of the retrieval endpoint; by default the newest")
        if name in ("build", "add"):
            source = action.add_mutually_exclusive_group(required=True)
            source.add_argument("--folder", type=Path, help="pictures below it; their paths from there are the ids")
            source.add_argument("--list", type=Path, help="JSON list of retrieval: pictures and captions")
            action.add_argument("--images", type=Path, help="folder that paths of the list start from")
            action.add_argument("--skip-unreadable", action="store_true", help="leave out what is no picture")
        if name == "build":
            action.add_argument(
                "--dtype",
                choices=get_args(configuration.IndexDtype),
                default="float32",
                help="of the embeddings kept",
            )
        if name == "remove":
            action.add_argument("--captions", action="store_true", help="captions, by their text")
            action.add_argument("ids", nargs="+")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; a mistake of the user's is one sentence on stderr and exit code 2."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    args = parser().parse_args(argv)
    level = logging.INFO if args.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    try:
        args.function(args)
    except (ValueError, OSError) as error:
        if args.verbose:
            logging.getLogger(__name__).exception("%s failed", args.command)
        print(f"albef {args.command}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
