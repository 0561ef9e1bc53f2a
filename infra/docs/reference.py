"""Reference of endpoints and commands, from their specifications and the parser."""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from types import ModuleType

from albef import cli
from albef.drift.check import DRIFTED
from albef.serving.protocol import ANY, TensorSpec
from albef.serving.service import GAVE_UP
from albef.tasks import registry
from infra.docs.markdown import cell, table

ENDPOINTS = """# Endpoints

Inputs and outputs of every endpoint of `albef serve`, with Triton's types. Shapes are those of a row: a tensor of a
request has the rows as first dimension. See [Parameters](parameters.md#serve) for the limits of a request,
[Command line](command-line.md#albef-ask) for the options of `albef ask`, and [HTTP](../docs/http.md) for requests in
JSON.

"""
COMMANDS = f"""# Command line

`albef --help` and `albef COMMAND --help` print the same. Options of `albef` itself come before the command.

## Exit codes

| Code | Meaning |
|---|---|
| 0 | done; `albef serve`: stopped by SIGINT or SIGTERM |
| 1 | an unexpected error, with a traceback; `albef init-info`: the weights do not fit; `albef doctor`: problems |
| 2 | invalid input, a wrong option, or an operation that failed; one sentence says which |
| {DRIFTED} | `albef drift`: drift |
| {GAVE_UP} | `albef serve`: a process died six times within a minute |
| 127 | a stage of `dvc.yaml` found no `albef` in `.venv` or on PATH |
| 143 | SIGTERM ended a training, which saved a checkpoint: run the command again to resume |

"""


def endpoints() -> str:
    """Return the page of all endpoints."""
    parts = [ENDPOINTS]
    for name, signature in registry.endpoints().items():
        spec = import_module(f"{registry.package(registry.endpoint(name).name)}.spec")
        about = _docstring(spec, "ENDPOINT").strip()
        if "``(" in about:  # a shape, whose letters the module explains
            about += "\n\n" + "\n".join((spec.__doc__ or "").splitlines()[1:]).strip()
        parts.append(f"## {name}\n\n{about}\n\n")
        parts.append(table(("Input", "Type", "Shape", "Optional"), *(_tensor(tensor) for tensor in signature.inputs)))
        parts.append(table(("Output", "Type", "Shape"), *(_tensor(tensor)[:3] for tensor in signature.outputs)))
    return "".join(parts)


def _tensor(tensor: TensorSpec) -> tuple[str, ...]:
    shape = ", ".join("any" if size == ANY else str(size) for size in tensor.dims)
    return f"`{tensor.name}`", tensor.dtype, f"[{shape}]", "yes" if tensor.optional else ""


def _docstring(module: ModuleType, name: str) -> str:
    """Return the string below the assignment to a name."""
    body = ast.parse(inspect.getsource(module)).body
    for node, after in pairwise(body):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name and isinstance(after, ast.Expr):
            return str(ast.literal_eval(after.value))
    return ""


def commands() -> str:
    """Return the page of all commands."""
    root = cli.parser()
    return COMMANDS + "".join(_command(root, root.description or ""))


def _command(parser: argparse.ArgumentParser, about: str, level: int = 2) -> Iterator[str]:
    """Yield a command and those below it."""
    formatter = argparse.HelpFormatter(parser.prog)
    rows: list[tuple[str, ...]] = [("Argument", "Default", "Meaning")]
    inner: list[tuple[argparse.ArgumentParser, str]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            # Deprecated commands have no help text and are left out.
            inner = [(action.choices[shown.dest], shown.help or "") for shown in action._choices_actions]
        elif action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
            given = action.default not in (None, False, argparse.SUPPRESS, [])
            default = "*required*" if action.required else f"`{action.default}`" if given else ""
            meaning = formatter._expand_help(action) if action.help else ""
            rows.append((f"`{formatter._format_action_invocation(action)}`", default, cell(meaning)))
    yield f"{'#' * level} {parser.prog}\n\n{cell(about)}\n\n{table(*rows)}"
    for command, text in inner:
        yield from _command(command, text, level + 1)


PYTHON = """# Python API

::: albef.api

::: albef.serving.client
"""
"""Page of the Python API, which mkdocstrings completes."""
