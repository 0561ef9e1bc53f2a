"""Conversion of plain data to frozen dataclasses, with type checks."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class ConfigError(ValueError):
    """Unknown, missing or wrong key in the parameter file."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Allowed values of a number, as an annotation of its type.

    Args:
        low: Smallest value.
        high: Largest value; None for no limit.
        above: Exclude ``low`` itself.
    """

    low: float
    high: float | None = None
    above: bool = False

    def __contains__(self, value: float) -> bool:
        reaches = value > self.low if self.above else value >= self.low
        return reaches and math.isfinite(value) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        return low if self.high is None else f"{low} and at most {self.high:g}"


AtLeast0 = Annotated[int, Range(0)]
AtLeast1 = Annotated[int, Range(1)]
NonNegative = Annotated[float, Range(0)]
NotBelow1 = Annotated[float, Range(1)]
Positive = Annotated[float, Range(0, above=True)]
Fraction = Annotated[float, Range(0, 1)]


def renamed(old: str) -> Any:
    """Return a dataclass field that was formerly named ``old``.

    The old key is accepted for one release, with a warning.
    """
    return dataclasses.field(metadata={"renamed_from": old})


def named_by(key: str) -> Any:
    """Dataclass field that may be missing or null if the section names a model under ``key``.

    `albef.models.encoders.resolve` then sets it to the value of that model.

    Args:
        key: Dotted key, relative to the section.
    """
    return dataclasses.field(default=None, metadata={"named_by": key})


def resolved(resolve: Callable[[], Any]) -> Any:
    """Dataclass field whose type is known only at run time, from ``resolve``."""
    return dataclasses.field(metadata={"resolve": resolve})


def field_types(cls: type) -> dict[str, Any]:
    """Return the types of the fields of a dataclass."""
    hints = get_type_hints(cls, include_extras=True)
    return hints | {f.name: f.metadata["resolve"]() for f in dataclasses.fields(cls) if "resolve" in f.metadata}


def _current_keys(data: Mapping[str, Any], cls: type, where: str) -> dict[str, Any]:
    """Return ``data`` with renamed keys replaced by their current names.

    Raises:
        ConfigError: If a key is given under both names.
    """
    old_names = {f.metadata["renamed_from"]: f.name for f in dataclasses.fields(cls) if "renamed_from" in f.metadata}
    result = {}
    for key, value in data.items():
        name = old_names.get(key, key)
        if name != key:
            if name in data:
                raise ConfigError(f"{where}.{key}: renamed to {name!r}, which is also given; remove {key!r}")
            _logger.warning("%s.%s: renamed to %r; the next release will not accept the old name", where, key, name)
        result[name] = value
    return result


def _check_keys(keys: Iterable[Any], known: Sequence[str], where: str) -> None:
    for key in map(str, keys):
        if key not in known:
            near = "".join(f"; did you mean {name!r}?" for name in difflib.get_close_matches(key, known, 1))
            raise ConfigError(f"{where}.{key}: unknown key; known are {', '.join(known)}{near}")


def _expected(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        kind, limits = get_args(hint)
        return f"{_expected(kind)} {limits}"
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    return getattr(hint, "__name__", str(hint))


def _convert(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(value, hint, where)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        try:
            number = _convert(value, args[0], where)
        except ConfigError:
            number = None
        if number is None or number not in args[1]:
            raise ConfigError(f"{where}: expected {_expected(hint)}, got {value!r}")
        return number
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(value, next(a for a in args if a is not type(None)), where)
    if origin is Literal and value in args and type(value) in {type(a) for a in args}:
        return value
    if origin is list and isinstance(value, list):
        return [_convert(v, args[0], f"{where}[{i}]") for i, v in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {str(k): _convert(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise ConfigError(f"{where}: expected {_expected(hint)}, got {value!r}")


def _names_model(data: Any, field: dataclasses.Field[Any]) -> bool:
    """Return whether a section names the model that a field of `named_by` comes from."""
    for key in field.metadata["named_by"].split("."):
        data = data.get(key) if isinstance(data, Mapping) else getattr(data, key, None)
    return data is not None


def from_dict(data: Any, cls: type[T], where: str = "params") -> T:
    """Build the dataclass ``cls`` from plain data.

    Args:
        data: Nested mappings, as read from YAML or JSON.
        where: Prefix of the key in error messages.

    Raises:
        ConfigError: If a key is unknown, missing or mistyped.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a mapping with the keys of {cls.__name__}, got {data!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    data = _current_keys(data, cls, where)
    _check_keys(data, list(fields), where)
    hints = field_types(cls)
    values = {}
    for name, field in fields.items():
        if "named_by" in field.metadata and data.get(name) is None:
            if not _names_model(data, field):
                raise ConfigError(
                    f"{where}.{name}: missing key; expected {_expected(hints[name])}, or a model under "
                    f"{where}.{field.metadata['named_by']}"
                )
        elif name in data:
            values[name] = _convert(data[name], hints[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING:
            raise ConfigError(f"{where}.{name}: missing key; expected {_expected(hints[name])}")
    return cls(**values)


def read(path: Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        ConfigError: If the file is missing or not valid YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        # ruamel.yaml parses 1e-5 as a float, like DVC; PyYAML parses it as a string.
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the parameter file ({error.strerror})") from error
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error


def replaced(section: T, values: Any, where: str = "params") -> T:
    """Return a copy of a dataclass with some values replaced.

    Args:
        values: Nested mappings with the keys to replace.
        where: Prefix of the key in error messages.

    Raises:
        ConfigError: If a key is unknown or mistyped.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {values!r}")
    fields = {f.name: f for f in dataclasses.fields(section)}  # type: ignore[arg-type]
    hints = field_types(type(section))
    values = _current_keys(values, type(section), where)
    _check_keys(values, list(fields), where)
    changes: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}.{key}"
        current = getattr(section, key)
        nested = dataclasses.is_dataclass(current)
        if value is None and "named_by" in fields[key].metadata:
            changes[key] = None
        else:
            changes[key] = replaced(current, value, path) if nested else _convert(value, hints[key], path)
    return dataclasses.replace(section, **changes)  # type: ignore[type-var]


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a configuration dataclass to plain data, for checkpoints and run logs."""
    return dataclasses.asdict(config)


def train_values(values: Any, task: str, where: str) -> dict[str, Any]:
    """Return the training parameters of a task in the content of a (partial) parameter file.

    Raises:
        ConfigError: If it says nothing of it.
    """
    try:
        return {"tasks": {task: {"train": values["tasks"][task]["train"]}}}
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{where}: expected tasks.{task}.train") from error
