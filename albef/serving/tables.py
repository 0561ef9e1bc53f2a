"""Answers as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable


def ranked(rows: Iterable[tuple[float, str]], measure: str) -> str:
    """Return numbered rows of a number, called ``measure``, and a text."""
    lines = [f"{rank:>4}  {value:>11.4f}  {text}" for rank, (value, text) in enumerate(rows, start=1)]
    return "\n".join([f"{'rank':>4}  {measure:>11}  answer", *lines])
