"""Pieces of Markdown."""

from __future__ import annotations


def table(*rows: tuple[str, ...]) -> str:
    """Return a table whose first row is the header; empty without other rows."""
    head, *body = rows
    lines = [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *body)]
    return "\n".join(lines) + "\n\n" if body else ""


def cell(text: str) -> str:
    """Return a text for a table on one line; code in it stays as it is."""
    parts = " ".join(text.replace("|", "\\|").split()).split("`")
    return "`".join(part if n % 2 else part.replace("*", "\\*").replace("<", "&lt;") for n, part in enumerate(parts))
