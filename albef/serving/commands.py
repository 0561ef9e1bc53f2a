"""The command `albef ask`."""

from __future__ import annotations

import argparse
from pathlib import Path


def _ask(args: argparse.Namespace) -> None:
    from albef.serving import ask

    if args.endpoint == "retrieval":
        ask.retrieval(args.url, args.text, args.image, args.k, not args.no_rerank)
    elif args.endpoint == "vqa":
        ask.vqa(args.url, args.image, args.text, args.k, args.candidates, args.generate or None)
    elif args.endpoint == "entailment":
        ask.entailment(args.url, args.image, args.text)
    else:
        ask.grounding(args.url, args.image, args.text)


def add(command: argparse.ArgumentParser) -> None:
    """Give `albef ask` its endpoints."""
    ask = command.add_subparsers(dest="endpoint", required=True)

    def endpoint_of(name: str, text: str) -> argparse.ArgumentParser:
        endpoint = ask.add_parser(name, help=text, description=text)
        endpoint.set_defaults(function=_ask)
        endpoint.add_argument("--url", default="127.0.0.1:8001", help="gRPC address")
        return endpoint

    retrieval = endpoint_of("retrieval", "images for a text, or texts for an image")
    query = retrieval.add_mutually_exclusive_group(required=True)
    query.add_argument("text", nargs="?")
    query.add_argument("--image", type=Path)
    retrieval.add_argument("-k", type=int, default=5, help="number of answers")
    retrieval.add_argument("--no-rerank", action="store_true", help="rank by ITC alone")
    vqa = endpoint_of("vqa", "answers to a question about an image")
    vqa.add_argument("-k", type=int, default=5, help="number of answers")
    vqa.add_argument("--candidates", nargs="+", metavar="ANSWER", help="choose from these")
    vqa.add_argument("--generate", action="store_true", help="write answers rather than choose")
    entailment = endpoint_of("entailment", "whether an image entails a hypothesis")
    grounding = endpoint_of("grounding", "where in an image an expression is")
    for endpoint in (vqa, entailment, grounding):
        endpoint.add_argument("--image", type=Path, required=True)
        endpoint.add_argument("text")
