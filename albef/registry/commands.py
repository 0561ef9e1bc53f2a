"""``albef registry``: light to import, as all of the command line."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(command: argparse.ArgumentParser) -> None:
    """The subcommands of ``albef registry``."""
    actions = command.add_subparsers(dest="action", required=True)
    for name, text in (
        ("register", "put the models of a repository in, as challengers"),
        ("compare", "challengers beside champions on the test split; fails where one loses too much"),
        ("promote", "make the challengers champions"),
        ("revert", "make those champions that were it before"),
        ("show", "champions, challengers and previous champions"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.set_defaults(function=run)
        action.add_argument("--tracking-uri", help="MLflow store; by default MLFLOW_TRACKING_URI or a file here")
        if name == "register":
            for folder in ("repository", "evaluate", "lists"):
                action.add_argument(f"--{folder}", type=Path, required=True)
        if name == "compare":
            action.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
            action.add_argument("--url", help="gRPC address of the server with the champions, to ask them anew")
            action.add_argument("--lists", type=Path, help="the present test lists, for that")
            action.add_argument("--images", type=Path, help="folder that image paths of the lists start from")
        if name == "promote":
            action.add_argument("--triton-version", type=int, help="the version that answers in the server")


def run(args: argparse.Namespace) -> None:
    """Do what was asked; prints JSON."""
    import json
    from dataclasses import asdict

    from albef import config
    from albef.registry import gate, models

    rows: list[dict[str, object]]
    if args.action == "register":
        rows = [asdict(v) for v in models.register(args.repository, args.evaluate, args.lists, args.tracking_uri)]
    elif args.action == "compare":
        parameters = config.load(args.params).release
        rows = [asdict(v) for v in gate.compare(parameters, args.tracking_uri, args.url, args.lists, args.images)]
    elif args.action == "promote":
        rows = [asdict(v) for v in gate.promote(args.triton_version, args.tracking_uri)]
    elif args.action == "revert":
        rows = [asdict(v) for v in gate.revert(args.tracking_uri)]
    else:
        rows = [{"alias": which, **asdict(v)} for which, v in gate.shown(args.tracking_uri)]
    print(json.dumps(rows, indent=1))
    refused = [f"{row['endpoint']} {row['said']}" for row in rows if row.get("passed") is False]
    if refused:
        raise models.RegistryError("; ".join(refused))
