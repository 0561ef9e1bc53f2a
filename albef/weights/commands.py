"""Command ``albef init-info``."""

from __future__ import annotations

import argparse
from pathlib import Path

from albef import config as configuration


def add(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``albef init-info``."""
    command.set_defaults(function=_run)
    command.add_argument("source", help="as in init.vision or init.text, or a checkpoint file or stage folder")
    command.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    command.add_argument("--kind", choices=("vision", "text", "checkpoint"), help="default: inferred from tensor names")
    command.add_argument("--task", help="task of the initialized model; default: pretrain, or that of the checkpoint")
    command.add_argument("--json", action="store_true", help="print every tensor name as JSON")


def _run(args: argparse.Namespace) -> None:
    from albef.weights import init_info

    info = init_info.inspect(configuration.load(args.params), args.source, args.kind, args.task)
    print(info.to_json() if args.json else info.text())
    if not info.fits:
        raise SystemExit(1)
