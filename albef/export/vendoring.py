"""Copies the modules an endpoint imports beside it, so that the model repository needs no installed albef."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.split(".")[0] == PACKAGE.name}


def _file(module: str) -> Path | None:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def closure(start: Path) -> list[Path]:
    """Files of this library that ``start`` imports, directly or not, with the packages they lie in."""
    found: set[Path] = set()
    queue = [start]
    while queue:
        for module in _imports(queue.pop()):
            parts = module.split(".")
            # An imported name may be an attribute rather than a module: then it has no file.
            for path in (_file(".".join(parts[: end + 1])) for end in range(len(parts))):
                if path is not None and path not in found:
                    found.add(path)
                    queue.append(path)
    return sorted(found)


def copy(start: Path, folder: Path) -> None:
    """Copy ``start`` into ``folder``, and what it imports of this library into ``folder/albef``."""
    shutil.copyfile(start, folder / start.name)
    for path in closure(start):
        target = folder / path.relative_to(PACKAGE.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
