"""HTML building blocks of the page; all text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { border: 1px solid #d1d9e0; padding: .3rem .8rem; }
th { background: #f6f8fa; text-align: left; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; } p.note { color: #59636e; }
"""

Cell = str | float


def table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table; numbers have at most four decimals."""

    def cell(value: Cell) -> str:
        if isinstance(value, str):
            return f"<td>{escape(value)}</td>"
        text = f"{value:g}" if value != 0 and abs(value) < 1e-3 else f"{value:.4f}".rstrip("0").rstrip(".")
        return f'<td class="n">{text}</td>'

    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def image(name: str, text: str) -> str:
    """Return an image, stored next to the page, with alternative text."""
    return f'<p><img src="{escape(name)}" alt="{escape(text)}"></p>'


def heading(text: str, level: int = 2) -> str:
    """Return a heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def note(text: str) -> str:
    """Return a remark in small gray text."""
    return f"<p class=note>{escape(text)}</p>"


def document(parts: Sequence[str]) -> str:
    """Return the complete page."""
    body = "\n".join(parts)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>ALBEF report</title><style>{_STYLE}</style>\n{body}\n</html>\n"
    )
