"""Pieces of Markdown."""

from __future__ import annotations

import re


def table(*rows: tuple[str, ...]) -> str:
    """Return a table whose first row is the header; empty without other rows."""
    head, *body = rows
    lines = [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *body)]
    return "\n".join(lines) + "\n\n" if body else ""


def cell(text: str) -> str:
    """Return a text for a table on one line; code in it stays as it is."""
    parts = " ".join(text.replace("|", "\\|").split()).split("`")
    return "`".join(part if n % 2 else part.replace("*", "\\*").replace("<", "&lt;") for n, part in enumerate(parts))


def deepened(text: str) -> str:
    """Indent what belongs to the item of a list by four spaces.

    The site's Markdown needs them; for GitHub, two after a bullet and three after a number are enough.
    """
    lines, content, fenced = [], 0, False
    for line in text.split("\n"):
        if line.startswith("```"):
            content, fenced = 0, not fenced
        elif not fenced and line and not line.startswith(" " * max(content, 1)):
            item = re.match(r"- |\d+\. ", line)
            content = len(item[0]) if item else 0
        elif content and line:
            line = " " * (4 - content) + line
        lines.append(line)
    return "\n".join(lines)
