"""``albef ask``: query an endpoint from the command line."""

from __future__ import annotations

import argparse
import json

from albef.serving import access, requests
from albef.tasks import registry

_RETRIES = 2
"""Few attempts: a user at a terminal should soon see that there is no server."""


def add(command: argparse.ArgumentParser) -> None:
    """Add the subcommands of `albef ask`, one per endpoint."""
    ask = command.add_subparsers(dest="endpoint", required=True)
    for name in registry.endpoints():
        spec = registry.endpoint(name)
        endpoint = ask.add_parser(name, help=spec.ask_help, description=spec.ask_help)
        endpoint.set_defaults(function=run)
        endpoint.add_argument("--url", default="127.0.0.1:8001", help="host and port of the gRPC service")
        endpoint.add_argument("--json", action="store_true", help="print the answer as JSON")
        access.add_options(endpoint)
        spec.add_arguments(endpoint)


def run(args: argparse.Namespace) -> None:
    """Send the request of `albef ask` and print the answer.

    Raises:
        ServingError: As `albef.serving.client.Client` does.
    """
    from albef.serving.client import Client

    module = registry.client(args.endpoint)
    with Client(args.url, retries=_RETRIES, **access.credentials(args).options(args.url)) as client:
        (answer,) = client.ask(module.from_arguments(args))
    print(json.dumps(requests.plain(answer)) if args.json else module.format_answer(answer))
    if hasattr(module, "save"):
        module.save(args, answer)
