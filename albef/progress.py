"""Progress of long work: a bar on a terminal, elsewhere log lines."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)
"""Logger of the lines; above level WARNING there is no bar either."""
INTERVAL = 30.0
"""Seconds between two lines; shorter work has none."""
_FORMAT = "{desc}: {n_fmt} of {total_fmt} {unit} ({percentage:.0f} %), {elapsed} elapsed, {remaining} left{postfix}"
_WITHOUT_TOTAL = "{desc}: {n_fmt} {unit}, {elapsed} elapsed{postfix}"


class Progress(tqdm):
    """Progress of work.

    Args:
        iterable: Parts of the work; without it, call `update`.
        total: Amount of work; by default the length of ``iterable``, if it has one.
        description: Name of the work.
        unit: Unit of the amount, in the plural.
        initial: Amount that is already done.
        enabled: False shows nothing, for example in all ranks but one.
        keep: Whether the complete bar stays on the terminal.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        total: int | None = None,
        *,
        description: str,
        unit: str,
        initial: int = 0,
        enabled: bool = True,
        keep: bool = True,
    ) -> None:
        self.lines = not sys.stderr.isatty()
        options: dict[str, Any] = {"leave": keep}
        if self.lines:
            options = {"leave": False, "file": io.StringIO(), "mininterval": INTERVAL, "miniters": 1}
        enabled = enabled and logger.isEnabledFor(logging.INFO if self.lines else logging.WARNING)
        super().__init__(
            iterable, total=total, desc=description, unit=unit, initial=initial, disable=not enabled, **options
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the current state."""
        if not self.lines:
            super().display(msg, pos)
        elif msg is None and self.n > self.initial:  # neither the first state nor the removal of the bar
            text = _FORMAT if self.total else _WITHOUT_TOTAL
            logger.info("%s", self.format_meter(**self.format_dict | {"bar_format": text}))
