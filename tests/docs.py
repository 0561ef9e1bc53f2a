"""Code blocks of the documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests import ROOT

PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "examples/own_photos/README.md",
]


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def kind(code: str) -> str:
    """Return what a Python block needs: ``mlflow``, a ``server``, or only the ``api``."""
    if "mlflow" in code:
        return "mlflow"
    return "server" if "albef.serving" in code else "api"


NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def notebook() -> str:
    """Return the code of all cells of the notebook."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def python_blocks(needs: str) -> list[object]:
    """Test parameters: the notebook and the Python blocks of all pages of a `kind`."""
    every = [(page.name, code) for page in PAGES for code in blocks(page, "python")]
    every = [(name, code) for name, code in [*every, (NOTEBOOK.name, notebook())] if kind(code) == needs]
    return [pytest.param(code, id=f"{name} {number}") for number, (name, code) in enumerate(every)]


def execute(code: str) -> None:
    """Run a block as a program."""
    exec(compile(code, "documentation", "exec"), {"__name__": "__main__"})
