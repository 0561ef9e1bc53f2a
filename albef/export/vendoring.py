"""Vendoring of endpoints: copies of their modules and imports.

The model repository then needs no installed albef.
"""

from __future__ import annotations

import ast
import shutil
from importlib.util import find_spec
from pathlib import Path

_LOADER = '''"""Loaded by Triton's Python backend; the endpoint's code is in the folders next to it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from {module} import TritonPythonModel as TritonPythonModel
'''


def _imports(path: Path, roots: set[str]) -> set[str]:
    """Return the dotted names in the packages ``roots`` that a file imports.

    Imports for the type checker alone do not count.
    """
    names: set[str] = set()
    queue: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"), str(path))]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        queue.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.split(".")[0] in roots}


def _root(package: str) -> Path:
    """Return the folder of a top-level package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{package}: not an importable package")
    return Path(next(iter(spec.submodule_search_locations)))


def closure(module: str) -> dict[Path, Path]:
    """Return the source files that a module needs.

    These are the module, its imports from its own top-level package and from albef, and the ``__init__.py`` of all
    packages involved.

    Returns:
        Source files by path relative to the parent folder of the packages.
    """
    roots = {name: _root(name) for name in {"albef", module.split(".")[0]}}

    def file_of(name: str) -> tuple[Path, Path] | None:
        top, *rest = name.split(".")
        path = roots[top].joinpath(*rest)
        source = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)
        return None if source is None else (Path(top) / source.relative_to(roots[top]), source)

    files: dict[Path, Path] = {}
    queue = [module]
    while queue:
        parts = queue.pop().split(".")
        # Imported names that are attributes rather than modules have no file.
        for pair in (file_of(".".join(parts[: end + 1])) for end in range(len(parts))):
            if pair is not None and pair[0] not in files:
                files[pair[0]] = pair[1]
                queue.extend(_imports(pair[1], set(roots)))
    return dict(sorted(files.items()))


def copy(module: str, folder: Path) -> None:
    """Write ``model.py``, which loads an endpoint, and the endpoint's files to ``folder``."""
    (folder / "model.py").write_text(_LOADER.format(module=module), encoding="utf-8")
    for name, source in closure(module).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
