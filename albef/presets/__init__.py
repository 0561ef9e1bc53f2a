"""Presets: complete parameter files of the paper's runs (section 4, appendix; the official configuration files).

``paper.yaml`` holds every value once; ``variants.yaml`` says in what each preset differs from it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from albef.config import ConfigError
from albef.data.files import write_text

_HERE = Path(__file__).parent
_DEMO = "demo: it is params.yaml as git keeps it; `git checkout params.yaml` brings it back"


def names() -> dict[str, str]:
    """What each preset is, by name."""
    return {name: variant["about"] for name, variant in _variants().items()}


def content(name: str) -> str:
    """The text of a preset's parameter file.

    Raises:
        ConfigError: If there is no such preset.
    """
    variants = _variants()
    if name == "demo":
        raise ConfigError(_DEMO)
    if name not in variants:
        raise ConfigError(f"no preset {name!r}; known are {', '.join(variants)}")
    yaml = YAML()
    yaml.width = 120
    yaml.Representer = _Representer
    data = yaml.load(_HERE / "paper.yaml")
    variant = variants[name]
    if "lists" in variant:
        _keep(data["prepare"]["lists"], set(variant["lists"]))
    for key, value in variant.get("set", {}).items():
        *path, last = key.split(".")
        section = data
        for part in path:
            section = section[part]
        section[last] = _in_one_line(value) if isinstance(value, list) else value
    out = io.StringIO()
    yaml.dump(data, out)
    return f"# {name}: {variant['about']}. Written by `albef preset`.\n{out.getvalue()}"


def write(name: str, out: Path, force: bool = False) -> None:
    """Write a preset to the file ``out``.

    Args:
        force: Replace a file that is there.

    Raises:
        ConfigError: If there is no such preset, or the file is there.
    """
    text = content(name)
    if out.exists() and not force:
        raise ConfigError(f"{out}: is there already; --force replaces it")
    write_text(out, text)
    print(f"{out}: {name}, {names()[name]}")


def show() -> None:
    """Print the presets."""
    for name, about in names().items():
        print(f"{name:20}{about}")
    print(_DEMO)


class _Representer(RoundTripRepresenter):
    """Writes the word null rather than nothing."""

    def represent_none(self, data: None) -> ScalarNode:
        """``null``, whose tag is the library's."""
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_none)


def _in_one_line(values: list[Any]) -> CommentedSeq:
    sequence = CommentedSeq(values)
    sequence.fa.set_flow_style()
    return sequence


def _variants() -> dict[str, Any]:
    data: dict[str, Any] = YAML(typ="safe").load(_HERE / "variants.yaml")
    return data


def _keep(lists: Mapping[str, Any], kept: set[str]) -> None:
    """Leave out the other lists, with their folders."""
    files = lists["files"]
    inside = {file for name in kept for file in files[name]}
    for name in [name for name in files if name not in kept]:
        del files[name]
    for name in [name for name in lists["folders"] if name not in kept | inside]:
        del lists["folders"][name]
