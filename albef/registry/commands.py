"""The command ``albef registry``; heavy imports are deferred until it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from albef.serving import access


def add(command: argparse.ArgumentParser) -> None:
    """Add the subcommands of ``albef registry``."""
    actions = command.add_subparsers(dest="action", required=True)
    for name, text in (
        ("register", "register the models of a repository as challengers"),
        ("compare", "compare challengers with champions on the test split; fails if one is too much worse"),
        ("promote", "make the challengers champions"),
        ("revert", "restore the previous champions"),
        ("show", "list champions, challengers and previous champions"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.set_defaults(function=run)
        action.add_argument("--tracking-uri", help="MLflow store; default: MLFLOW_TRACKING_URI or ./mlflow.db")
        if name == "register":
            for folder in ("repository", "evaluate", "lists"):
                action.add_argument(f"--{folder}", type=Path, required=True)
            action.add_argument(
                "--models", type=Path, help="folder of the training stages, to register their checkpoints, too"
            )
            action.add_argument(
                "--cards",
                type=Path,
                default=Path("artifacts/report"),
                help="folder of model cards",
            )
        if name in ("register", "compare"):
            action.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
        if name == "compare":
            action.add_argument("--url", help="gRPC address of the server with the champions, to evaluate them again")
            access.add_options(action)
            action.add_argument("--lists", type=Path, help="current test lists, needed with --url")
            action.add_argument("--images", type=Path, help="folder that image paths of the lists are relative to")
        if name == "promote":
            action.add_argument(
                "--triton-version", type=int, help="version number in the Triton server, stored as a tag"
            )


def run(args: argparse.Namespace) -> None:
    """Run a subcommand and print its result as JSON."""
    import json
    from dataclasses import asdict

    from albef import config
    from albef.registry import gate, models

    rows: list[dict[str, object]]
    if args.action == "register":
        inputs = (args.repository, args.evaluate, args.lists, args.tracking_uri)
        rows = [asdict(v) for v in models.register(*inputs, models=args.models, params=args.params, cards=args.cards)]
    elif args.action == "compare":
        parameters = config.load(args.params).release
        places = (args.url, args.lists, args.images)
        verdicts = gate.compare(parameters, args.tracking_uri, *places, access.credentials(args))
        rows = [asdict(verdict) for verdict in verdicts]
    elif args.action == "promote":
        rows = [asdict(v) for v in gate.promote(args.triton_version, args.tracking_uri)]
    elif args.action == "revert":
        rows = [asdict(v) for v in gate.revert(args.tracking_uri)]
    else:
        rows = [{"alias": alias, **asdict(v)} for alias, v in gate.aliased_versions(args.tracking_uri)]
    print(json.dumps(rows, indent=1))
    refused = [f"{row['endpoint']} {row['said']}" for row in rows if row.get("passed") is False]
    if refused:
        raise models.RegistryError("; ".join(refused))
