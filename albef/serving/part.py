"""Common code of the processes that `albef.serving.service` runs in front of Triton."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any


def run(
    module: str,
    text: str | None,
    add_options: Callable[[argparse.ArgumentParser], None],
    serve: Callable[[argparse.Namespace], Coroutine[Any, Any, None]],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a part until its supervisor asks to stop, or is gone.

    Args:
        module: Name of the module after ``python -m``.
        add_options: Adds the options that other parts do not have.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=text)
    parser.add_argument("--endpoints", nargs="+", required=True)
    parser.add_argument("--timeout", type=float, required=True, help="most seconds for an answer")
    for name in ("ca", "cert", "key"):
        parser.add_argument(f"--{name}", type=Path)
    add_options(parser)
    asyncio.run(serve(parser.parse_args(argv)))
    return 0


async def commands() -> asyncio.StreamReader:
    """Return the lines that the supervisor sends; they end when it is gone."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    return lines
