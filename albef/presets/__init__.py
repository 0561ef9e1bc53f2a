"""Presets: complete parameter files for the experiments of the paper.

Values are from section 4, the appendix and the official configuration files. ``paper.yaml`` has all parameters;
``variants.yaml`` lists the presets and their differences from it.
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
from albef.io import write_file

_HERE = Path(__file__).parent
_DEMO = "demo: not a preset but the committed params.yaml; restore it with `git checkout params.yaml`"


def names() -> dict[str, str]:
    """Return the descriptions of all presets by name."""
    return {name: variant["about"] for name, variant in _variants().items()}


def content(name: str) -> str:
    """Return the parameter file of a preset as YAML.

    Raises:
        ConfigError: If there is no such preset.
    """
    variants = _variants()
    if name == "demo":
        raise ConfigError(_DEMO)
    if name not in variants:
        raise ConfigError(f"no preset {name!r}; known are {', '.join(variants)}")
    data = YAML().load(_HERE / "paper.yaml")
    variant = variants[name]
    if "lists" in variant:
        _select_lists(data["prepare"]["lists"], set(variant["lists"]))
    for key, value in variant.get("set", {}).items():
        *path, last = key.split(".")
        section = data
        for part in path:
            section = section[part]
        if value is None:
            section.pop(last, None)
        else:
            section[last] = _flow_style(value) if isinstance(value, list) else value
    return f"# {name}: {variant['about']}. Written by `albef preset`.\n{dump(data)}"


def dump(data: Mapping[str, Any]) -> str:
    """Format parameters, which may have comments, as YAML."""
    yaml = YAML()
    yaml.width = 120
    yaml.Representer = _Representer
    out = io.StringIO()
    yaml.dump(data, out)
    return out.getvalue()


def write(name: str, out: Path, force: bool = False) -> None:
    """Write the parameter file of a preset.

    Args:
        out: File to write.
        force: Overwrite an existing file.

    Raises:
        ConfigError: If there is no such preset, or the file exists and ``force`` is False.
    """
    text = content(name)
    if out.exists() and not force:
        raise ConfigError(f"{out}: file exists; use --force to overwrite it")
    write_file(out, text)
    print(f"{out}: {name}, {names()[name]}")


def show() -> None:
    """Print the names and descriptions of all presets."""
    for name, about in names().items():
        print(f"{name:20}{about}")
    print(_DEMO)


class _Representer(RoundTripRepresenter):
    """YAML representer that writes None as ``null`` instead of an empty value."""

    def represent_none(self, data: None) -> ScalarNode:
        """Represent None as ``null``."""
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_none)


def _flow_style(values: list[Any]) -> CommentedSeq:
    sequence = CommentedSeq(values)
    sequence.fa.set_flow_style()
    return sequence


def _variants() -> dict[str, Any]:
    data: dict[str, Any] = YAML(typ="safe").load(_HERE / "variants.yaml")
    return data


def _select_lists(lists: Mapping[str, Any], kept: set[str]) -> None:
    """Remove all other lists and their folders, in place."""
    files = lists["files"]
    kept_files = {file for name in kept for file in files[name]}
    for name in [name for name in files if name not in kept]:
        del files[name]
    for name in [name for name in lists["folders"] if name not in kept | kept_files]:
        del lists["folders"][name]
