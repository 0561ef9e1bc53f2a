"""``make docs``: the pages that the documentation site is built from.

They lie as in the repository, so that links between them work in both places. The reference is derived from the code at
each build and not committed: a committed copy would conflict between branches and could be out of date.
"""

from __future__ import annotations

import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from infra.docs import parameters, reference
from infra.docs.markdown import deepened

ROOT = Path(__file__).parents[2]
PAGES = (
    "*.md",
    "LICENSE",
    "docs/**/*",
    "examples/*.ipynb",
    "examples/own_photos/*",
    "benchmarks/README.md",
    "samples/emoji/ATTRIBUTION.md",
    "samples/emoji/LICENSE",
)
"""Patterns of the files that are copied."""
ASSETS = Path(__file__).parent / "assets"
"""Scripts of the site: browsers start no workers in files, so that the search needs a replacement."""

REFERENCE: dict[str, Callable[[Path], str]] = {
    "reference/parameters.md": lambda root: parameters.page(root / "params.yaml"),
    "reference/endpoints.md": lambda root: reference.endpoints(),
    "reference/command-line.md": lambda root: reference.commands(),
    "reference/python.md": lambda root: reference.PYTHON,
}
"""Pages derived from the code, given the repository."""


class SiteError(ValueError):
    """The navigation does not list every page once."""


def write(root: Path, out: Path) -> None:
    """Write all pages.

    Args:
        root: Repository, whose ``zensical.toml`` lists them.
        out: Folder to write; an existing one is replaced.

    Raises:
        SiteError: If the navigation lacks a page, or has one that does not exist.
    """
    files = [path for pattern in PAGES for path in root.glob(pattern) if path.is_file()]
    present = {str(path.relative_to(root)) for path in files if path.suffix == ".md"} | set(REFERENCE)
    listed = set(leaves(navigation(root)))
    if unlisted := present - listed:
        raise SiteError(f"zensical.toml: nav lacks {', '.join(sorted(unlisted))}; add them to a section")
    if missing := listed - present:
        raise SiteError(f"zensical.toml: nav has {', '.join(sorted(missing))}, expected pages; remove them")
    shutil.rmtree(out, ignore_errors=True)
    for path in files:
        target = out / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            target.write_text(deepened(path.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            shutil.copyfile(path, target)
    shutil.copytree(ASSETS, out / "assets")
    (out / "reference").mkdir()
    for name, text in REFERENCE.items():
        (out / name).write_text(text(root), encoding="utf-8")


def navigation(root: Path) -> Any:
    """Return the navigation of ``zensical.toml``: pages, and lists of them by title."""
    return tomllib.loads((root / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]


def leaves(navigation: Any) -> Iterator[str]:
    """Yield the pages of a navigation."""
    if isinstance(navigation, str):
        yield navigation
    else:
        for each in navigation.values() if isinstance(navigation, dict) else navigation:
            yield from leaves(each)


if __name__ == "__main__":
    try:
        write(ROOT, ROOT / "build/docs")
    except SiteError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
