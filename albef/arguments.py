"""Parts of the command line's parser."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

_CHOICE = re.compile(r"invalid choice: '(?P<word>[^']*)' \(choose from (?P<choices>.*)\)$", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """Parser that suggests the closest choice for a misspelled one.

    Subcommands are choices, too.
    """

    def error(self, message: str) -> NoReturn:
        """Print usage and error, and exit with status 2."""
        if found := _CHOICE.search(message):
            choices = re.findall(r"[\w./-]+", found["choices"])
            if close := difflib.get_close_matches(found["word"], choices, n=1):
                message += f"; did you mean {close[0]!r}?"
        super().error(message)


class DeprecatedOption(argparse.Action):
    """Deprecated option: accepted with a warning, hidden from ``--help``.

    Args:
        new: Current spelling, whose destination receives the value.
    """

    def __init__(self, option_strings: Sequence[str], dest: str, *, new: str, **kwargs: Any) -> None:
        dest = new.removeprefix("--").replace("-", "_")
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **kwargs)
        self.new = new

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        """Warn, and store the value."""
        warn_deprecated(self.option_strings[0], self.new)
        setattr(namespace, self.dest, values)


def warn_deprecated(old: str, new: str) -> None:
    """Warn of a deprecated spelling."""
    print(f"albef: warning: {old} is deprecated and will be removed in the next release; use {new}", file=sys.stderr)
