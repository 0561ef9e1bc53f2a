"""Command-line interface: one subcommand per pipeline stage, plus serving, tracking and release."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import get_args

from albef import config as configuration
from albef.arguments import DeprecatedOption, Parser, warn_deprecated

_STATUS = (
    "exit status: 0 done; 1 `doctor` found problems; 2 invalid input; 3 the server kept dying, or drift was found; "
    "143 stopped by SIGTERM, and training resumes if run again"
)
_GARBAGE = gc.get_threshold()
# Telemetry of every dependency is off unless the user turns it on.
_QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def _prepare(args: argparse.Namespace) -> None:
    from albef.datasets import prepare

    prepare.run(configuration.load(args.params).prepare, args.raw, args.out, args.work_dir)


def _inspect(args: argparse.Namespace) -> None:
    from albef import init_lists
    from albef.validation import raw

    config = configuration.load(args.params)
    if without := init_lists.tasks_without_data(config):
        sections = ", ".join(f"tasks.{name}" for name in without)
        logging.getLogger(__name__).warning(
            "no list of prepare.lists.files trains %s; remove these sections from %s, or their stages will fail",
            sections,
            args.params,
        )
    raw.run(config.prepare, config.validate, args.raw, args.out)


def _validate(args: argparse.Namespace) -> None:
    from albef.validation import gate

    gate.run(configuration.load(args.params).validate, args.data, args.out, args.work_dir)


def _tokenizer(args: argparse.Namespace) -> None:
    from albef.data import tokenizer

    tokenizer.run(configuration.load(args.params).tokenizer, args.lists, args.out)


def _train(args: argparse.Namespace) -> None:
    from albef.training import run

    gc.set_threshold(*_GARBAGE)  # tensors in garbage must not fill the device
    config = configuration.load(args.params)
    if args.tuned:
        tuned = configuration.train_values(configuration.read(args.tuned), args.task, str(args.tuned))
        config = configuration.overlay(config, tuned)
    run.run(
        config,
        args.task,
        args.lists,
        args.images,
        args.tokenizer,
        args.out,
        init=args.init,
        work_dir=args.work_dir,
        tracking_uri=args.tracking_uri,
    )


def _tune(args: argparse.Namespace) -> None:
    from albef.tuning import results

    config = configuration.load(args.params)
    if results.write_unsearched(config, args.task, args.out):
        return
    from albef.tuning import search

    folders = (args.lists, args.images, args.tokenizer, args.init, args.out, args.work_dir)
    print(search.run(config, args.task, *folders, args.tracking_uri).summary())


def _evaluate(args: argparse.Namespace) -> None:
    from albef.tasks import evaluation

    gc.set_threshold(*_GARBAGE)
    config = configuration.load(args.params)
    evaluation.run(config, args.task, args.model, args.lists, args.images, args.tokenizer, args.out, args.work_dir)


def _behavior(args: argparse.Namespace) -> None:
    from albef.behavior import commands

    config = configuration.load(args.params)
    commands.run(config, args.lists, args.images, args.tokenizer, args.models, args.pretrained, args.out)


def _export(args: argparse.Namespace) -> None:
    from albef.export import onnx

    onnx.run(configuration.load(args.params), args.task, args.model, args.tokenizer, args.out)


def _parity(args: argparse.Namespace) -> None:
    from albef.export import engines

    print(engines.gate(configuration.load(args.params), args.task, args.model, args.tokenizer, args.export))


def _repository(args: argparse.Namespace) -> None:
    from albef.export import repository

    config = configuration.load(args.params)
    repository.run(config, args.export, args.lists, args.images, args.tokenizer, args.out)


def _index(args: argparse.Namespace) -> None:
    from albef.index import commands

    if args.action in ("build", "add"):
        source = commands.Source(args.folder, args.list, args.images, args.skip_unreadable, args.metadata)
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

    result = check.run(configuration.load(args.params).drift, args.sample, args.reference, args.out)
    print(result.text())
    if result.drifted:
        raise SystemExit(check.DRIFTED)


def _report(args: argparse.Namespace) -> None:
    from albef.report import page

    page.run(args.artifacts, args.images, args.out, args.metrics, args.tracking_uri, args.work_dir, args.params)
    print((args.out / "summary.txt").read_text(encoding="utf-8"), end="")


def _sync(args: argparse.Namespace) -> None:
    from albef.tracking.tracker import sync

    print(f"{sync(args.tracking_uri, args.work_dir)} runs synced")


def _url(args: argparse.Namespace) -> None:
    from albef.tracking.pages import page_url

    print(page_url(args.page, args.tracking_uri))


def _deliver(args: argparse.Namespace) -> None:
    warn_deprecated("albef deliver", "albef tracking sync")
    _sync(args)


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
    print(quantize.format_table(changes))
    if args.json:
        args.json.write_text(quantize.to_json(changes), encoding="utf-8")


def _completion(args: argparse.Namespace) -> None:
    import shtab

    print(shtab.complete(parser(), args.shell))


def parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command line."""
    from albef import doctor, init_data
    from albef.data import commands as data_commands
    from albef.demo import commands as demo_commands
    from albef.registry import commands as registry_commands
    from albef.serving import commands as ask_commands
    from albef.serving import server_commands
    from albef.weights import commands as weights_commands

    root = Parser(prog="albef", description=__doc__, epilog=_STATUS)
    root.add_argument("--version", action="version", version=f"albef {metadata.version('albef')}")
    root.add_argument("-v", "--verbose", action="store_true", help="log more, and show tracebacks")
    root.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    work_dir = Path(os.environ.get("ALBEF_WORK_DIR", "scratch"))
    common = Parser(add_help=False)
    common.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")

    def add(name: str, function: object, text: str, *folders: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[common])
        command.set_defaults(function=function)
        for folder in folders:
            command.add_argument(f"--{folder}", type=Path, required=True)
        return command

    add("inspect", _inspect, "check the raw data against expectations; write a page", "raw", "out")
    prepare = add(
        "prepare", _prepare, "write tables of the built-in data set, of JSON lists, or of pairs", "raw", "out"
    )
    validate = add("validate", _validate, "data gate: expectations, their page, clean lists", "data", "out")
    add("tokenizer", _tokenizer, "train or convert the tokenizer", "lists", "out")
    inputs = ("lists", "images", "tokenizer")
    pretrain = add("pretrain", _train, "pretrain with ITC, ITM, MLM and momentum distillation", *inputs, "out")
    pretrain.set_defaults(task="pretrain", init=None, tuned=None)
    finetune = add("finetune", _train, "fine-tune a task from a pretrained model", *inputs, "init", "out")
    finetune.add_argument("--tuned", type=Path, help="training parameters to override, as written by `albef tune`")
    tune = add("tune", _tune, "search the hyper-parameters of a task with Ray Tune", *inputs, "init", "out")
    evaluate = add("evaluate", _evaluate, "compute test metrics and plots of a task", *inputs, "model", "out")
    export = add("export", _export, "export ONNX graphs and check their parity", "tokenizer", "model", "out")
    text = "compare TensorRT's engines of exported graphs with the model; needs a GPU"
    parity = add("parity", _parity, text, "tokenizer", "model", "export")
    for command in (finetune, tune, evaluate, export, parity):
        command.add_argument("task")
    behavior = (*inputs, "models", "pretrained", "out")
    add("behavior", _behavior, "test how outputs of all models change with the input", *behavior)
    add("repository", _repository, "build the Triton model repository and its index", *inputs, "export", "out")
    folders = (*inputs, "export", "repository", "out")
    quantize = add("quantize", _quantize, "build an int8 model repository if test metrics hold up", *folders)
    quantize.add_argument("--max-loss", type=float, default=0.01, help="largest drop allowed for a test metric, 0 to 1")
    quantize.add_argument("--limit", type=int, help="number of rows per test list; default: all")
    quantize.add_argument("--json", type=Path, help="also write the metrics to this file")
    reference = add("reference", _reference, "write the drift reference of the training data or served requests", "out")
    for name, text in (
        ("lists", "folder of the training lists"),
        ("images", "output folder of `albef prepare`"),
        ("tokenizer", "folder of the tokenizer"),
        ("sample", "folder of `albef serve --sample-requests`: confidence only, or everything without --lists"),
    ):
        reference.add_argument(f"--{name}", type=Path, help=text)
    add("drift", _drift, "compare served requests with a reference; exit code 3: drift", "sample", "reference", "out")
    report = add("report", _report, "write an HTML page of metrics, curves, images", "artifacts", "images", "out")
    report.add_argument("--metrics", type=Path, help="file for the headline metric of each task, as JSON")
    tracking = commands.add_parser("tracking", help="MLflow tracking")
    text = "send MLflow the metrics and files that earlier runs could not deliver"
    actions = tracking.add_subparsers(dest="action", required=True)
    sync = actions.add_parser("sync", help=text, description=text)
    sync.set_defaults(function=_sync)
    text = "print the address of the runs in MLflow's UI, or of a page of the latest report"
    url = actions.add_parser("url", help=text, description=text)
    url.set_defaults(function=_url)
    url.add_argument("page", nargs="?", help="path in the folder `artifacts`, such as report/index.html")
    url.add_argument("--tracking-uri", help="MLflow store")
    deliver = commands.add_parser("deliver", description="deprecated; use `albef tracking sync`")
    deliver.set_defaults(function=_deliver)
    for command in (prepare, validate, evaluate):
        command.add_argument("--work-dir", type=Path, default=work_dir, help="folder for the state of the run")
    for command in (pretrain, finetune, tune, report, sync, deliver):
        content = "checkpoints" if command in (pretrain, finetune, tune) else "buffered tracking data"
        command.add_argument("--work-dir", type=Path, default=work_dir, help=f"folder for {content}")
        command.add_argument("--scratch", type=Path, action=DeprecatedOption, new="--work-dir")
        command.add_argument("--tracking-uri", help="MLflow store; 'none' disables tracking")
    ablate = add("ablate", _ablate, "run the paper's ablation (table 1) on your own data", "raw", "out")
    ablate.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one repetition per seed")
    ablate.add_argument("--tasks", nargs="+", help="columns of the table; default: all")
    official = add("import-checkpoint", _import_checkpoint, "convert a checkpoint of the official code", "out")
    official.add_argument("source", type=Path)
    official.add_argument("--task", help="task whose model is initialized from the checkpoint")
    weights_commands.add(commands.add_parser("init-info", help="show what weights would initialize"))
    student = add("export-checkpoint", _export_checkpoint, "write a checkpoint for the official code", "model", "out")
    student.add_argument("--student-only", action="store_true", help="leave out the momentum teacher and the queue")
    preset = commands.add_parser("preset", help="write a ready-made parameter file, or list the available ones")
    preset.set_defaults(function=_preset)
    preset.add_argument("name", nargs="?")
    preset.add_argument("--out", type=Path, default=Path("params.yaml"), help="file to write")
    preset.add_argument("--force", action="store_true", help="overwrite an existing file")
    doctor.add(add("doctor", None, "check this machine and environment, and say what to mend"))
    completion = add("completion", _completion, "print the completion script of a shell")
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"])
    serve = server_commands.add(add)
    serve.add_argument("--sample-share", type=float, action=DeprecatedOption, new="--sample-fraction")
    init_data.add(add("init-data", None, "write parameters for retrieval on your own images and captions"))
    data_commands.add(commands.add_parser("data", help="write lists and images as files"))
    registry_commands.add(commands.add_parser("registry", help="manage versions of the served models in MLflow"))
    _index_commands(commands.add_parser("index", help="manage the index that retrieval searches"))
    ask_commands.add(commands.add_parser("ask", help="query the served models"))
    demo_commands.add(commands.add_parser("demo", help="serve a web page to try the models, on loopback"))
    return root


def _index_commands(command: argparse.ArgumentParser) -> None:
    commands = command.add_subparsers(dest="action", required=True)
    for name, text in (
        ("build", "replace the index by a new one"),
        ("add", "add images and captions; an image with an existing id replaces it"),
        ("remove", "remove images by id, or captions by text"),
        ("show", "show the contents of the index"),
    ):
        action = commands.add_parser(name, help=text, description=text)
        action.set_defaults(function=_index)
        action.add_argument("--repository", type=Path, required=True, help="model repository")
        action.add_argument("--model-version", type=int, help="version of the retrieval endpoint; default: the newest")
        if name in ("build", "add"):
            source = action.add_mutually_exclusive_group()
            source.add_argument("--folder", type=Path, help="folder of images; their relative paths are the ids")
            source.add_argument("--list", type=Path, help="list of images and captions, as for retrieval")
            action.add_argument("--images", type=Path, help="folder that image paths of the list are relative to")
            action.add_argument("--skip-unreadable", action="store_true", help="skip files that are not images")
            action.add_argument("--metadata", type=Path, help="CSV, JSON lines or Parquet with a column 'id'")
        if name == "build":
            dtypes = get_args(configuration.IndexDtype)
            action.add_argument("--dtype", choices=dtypes, default="float32", help="type of the stored embeddings")
        if name == "remove":
            action.add_argument("--captions", action="store_true", help="remove captions, given by their text")
            action.add_argument("ids", nargs="+")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; return 2 after reporting invalid input."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    gc.set_threshold(100_000)  # while importing, looking for garbage among a million objects takes a sixth of the time
    args = parser().parse_args(argv)
    level = logging.INFO if args.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("albef.progress").setLevel(logging.ERROR if args.quiet else logging.INFO)
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
