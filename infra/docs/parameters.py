"""Reference of the parameters, from the dataclasses of the configuration, ``params.yaml`` and the presets."""

from __future__ import annotations

import ast
import inspect
import io
import json
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from ruamel.yaml import YAML

from albef import config_parsing, presets
from albef.config import Config
from infra.docs.markdown import cell, table

ABOUT = """# Parameters

Every key of `params.yaml`, by section. *Default* is the value in the committed `params.yaml`; a key that the file lacks
has the default of the code, and *required* is one that its section cannot do without. *Presets* are the values of
[`albef preset`](../docs/pipeline.md#presets) where any of them differs: the value of most presets, then the others with
their names.

"""
REQUIRED = "*required*"
_TYPES = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}
Values = Mapping[str, Any]
"""Values by dotted key."""


def page(params: Path) -> str:
    """Return the page of all parameters.

    Args:
        params: Parameter file with the defaults.
    """
    demo = _flat(YAML(typ="safe").load(params))
    others = {name: _flat(YAML(typ="safe").load(presets.content(name))) for name in presets.names()}
    return ABOUT + "".join(_section(Config, "", demo, others))


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, by dotted key."""
    if not isinstance(data, Mapping) or not data:
        return {prefix: data}
    return {k: v for key, value in data.items() for k, v in _flat(value, f"{prefix}.{key}".lstrip(".")).items()}


def _section(cls: type, prefix: str, demo: Values, others: Mapping[str, Values]) -> Iterator[str]:
    """Yield a section and those below it."""
    notes, hints = _notes(cls), config_parsing.field_types(cls)
    rows: list[tuple[str, ...]] = [("Key", "Type", "Default", "Presets", "Meaning")]
    nested = []
    for field in fields(cls):
        hint, key, note = hints[field.name], f"{prefix}.{field.name}".lstrip("."), notes.get(field.name, "")
        inner = next((each for each in (hint, *get_args(hint)) if isinstance(each, type) and is_dataclass(each)), None)
        if inner is not None:
            nested.append((inner, key))
            continue
        if "named_by" in field.metadata:
            note += f"{'; ' if note else ''}may be left out next to `{field.metadata['named_by']}`"
        default = REQUIRED if field.default is MISSING else field.default
        # The entries of a mapping have rows of their own.
        entries = sorted({each for values in (demo, *others.values()) for each in values if each.startswith(f"{key}.")})
        values = ("", "") if entries else _values(key, default, demo, others)
        rows.append((f"`{field.name}`", _type(hint), *values, cell(note)))
        for entry in entries:
            mapping = next(each for each in (hint, *get_args(hint)) if get_origin(each) is dict)
            name, kind = entry.removeprefix(f"{prefix}."), _type(get_args(mapping)[-1])
            rows.append((f"`{name}`", kind, *_values(entry, "", demo, others), f"an entry of `{field.name}`"))
    if prefix:
        yield f"{'#' * (2 + min(prefix.count('.'), 3))} {prefix}\n\n{notes.get('', '')}\n\n"
    yield table(*rows)
    for inner, key in nested:
        yield from _section(inner, key, demo, others)


def _values(key: str, default: Any, demo: Values, others: Mapping[str, Values]) -> tuple[str, str]:
    """Return the default of a key, and the values of presets where any differs."""
    names: dict[str, list[str]] = {}
    for name, values in others.items():
        names.setdefault(_shown(values.get(key, default)), []).append(f"`{name}`")
    own = _shown(demo.get(key, default))
    if set(names) == {own}:
        return own, ""
    first, *rest = sorted(names, key=lambda value: -len(names[value]))
    return own, "; ".join([first or "none", *(f"{value or 'none'} in {', '.join(names[value])}" for value in rest)])


def _shown(value: Any) -> str:
    """Return a value as in a YAML file."""
    if value in ("", REQUIRED):
        return str(value)
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _notes(cls: type) -> dict[str, str]:
    """Return the comment of each field of a dataclass, and under "" what the class is."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except OSError:  # made at run time
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    tree = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    notes = {} if cls.__base__ in (None, object) else _notes(cls.__base__)
    notes[""] = ast.get_docstring(tree) or comments.get(tree.lineno, "")
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            notes[node.target.id] = " ".join(comments[line] for line in lines if line in comments)
    return notes


def _type(hint: Any) -> str:
    """Return a type in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{_type(args[0])} {args[1]}"
    if origin in (Union, UnionType):
        return " or ".join(map(_type, args))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in args)
    if origin in (list, dict):
        return f"{'list' if origin is list else 'mapping'} of {_type(args[-1])}"
    return _TYPES[hint]
