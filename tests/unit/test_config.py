"""Tests of parameter files: loading and error messages."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from albef import config_parsing
from albef.config import Config, ConfigError, PrepareConfig, PretrainConfig, from_dict, load, overlay, to_dict
from tests import ROOT
from tests.errors import refuses

SHIPPED = [ROOT / "params.yaml", *sorted(ROOT.glob("presets/*.yaml")), *sorted(ROOT.glob("tests/presets/*.yaml"))]


def plain() -> dict[str, Any]:
    """``params.yaml`` as nested mappings."""
    data: dict[str, Any] = YAML(typ="safe").load(ROOT / "params.yaml")
    return data


def leaves(data: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all values that are no mapping."""
    if not isinstance(data, dict):
        return [path]
    return [leaf for key, value in data.items() for leaf in leaves(value, (*path, key))]


def parent(data: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The mapping that holds a leaf."""
    for key in path[:-1]:
        data = data[key]
    return data


def field_of(path: tuple[str, ...]) -> tuple[Any, bool]:
    """Return the type of a leaf, and whether it may be omitted."""
    hint: Any = Config
    omitted = False
    for key in path:
        cls = next((part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part)), None)
        if cls is None:
            return Any, True
        field = next(field for field in dataclasses.fields(cls) if field.name == key)
        omitted = (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
        hint = config_parsing.field_types(cls)[key]
    return hint, omitted


def is_optional(path: tuple[str, ...]) -> bool:
    """Return whether a leaf may be null."""
    return type(None) in get_args(field_of(path)[0])


def has_default(path: tuple[str, ...]) -> bool:
    """Return whether a leaf may be omitted."""
    return field_of(path)[1]


LEAVES = leaves(plain())
STRICT = [path for path in LEAVES if not is_optional(path) and not has_default(path)]  # those are any text


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_file_loads(path: Path) -> None:
    config = load(path)
    assert from_dict(to_dict(config), Config) == config


def test_every_value_arrives() -> None:
    loaded = to_dict(load(ROOT / "params.yaml"))
    for path in LEAVES:
        assert parent(loaded, path)[path[-1]] == parent(plain(), path)[path[-1]]


@given(st.sampled_from([path for path in LEAVES if not has_default(path)]))
def test_a_missing_key_is_named(path: tuple[str, ...]) -> None:
    data = plain()
    del parent(data, path)[path[-1]]
    with refuses(ConfigError, f"params.{'.'.join(path)}"):
        from_dict(data, Config)


@pytest.mark.parametrize(("key", "value", "expected"), [
    ("pretrain.epochs", 0, "at least 1"),
    ("pretrain.batch_size", -32, "at least 1"),
    ("pretrain.device_batch_size", 0, "at least 1"),
    ("pretrain.log_every", 0, "at least 1"),
    ("pretrain.mask_probability", 1.5, "at most 1"),
    ("pretrain.optim.lr", 0.0, "above 0"),
    ("pretrain.optim.lr", float("nan"), "above 0"),
    ("pretrain.optim.clip", float("inf"), "at least 0"),
    ("model.temperature", 0.0, "above 0"),
    ("model.text.heads", 0, "at least 1"),
    ("tasks.retrieval.train.temperature", -1.0, "above 0"),
    ("distributed.world_size", 0, "at least 1"),
])  # fmt: skip
def test_a_value_that_cannot_train_is_refused_with_its_range(key: str, value: float, expected: str) -> None:
    data = plain()
    path = tuple(key.split("."))
    parent(data, path)[path[-1]] = value
    with refuses(ConfigError, f"params.{key}", expected, value):
        from_dict(data, Config)


@pytest.mark.parametrize(("batch", "part", "devices", "parts"), [
    (512, 64, 8, 1), (512, 64, 1, 8), (512, 64, 2, 4), (512, None, 4, 1),
    (512, 64, 7, 2), (512, 100, 1, 6), (512, None, 3, 1), (8, 1, 3, 1), (32, 2, 5, 3), (512, 2, 7, 36),
])  # fmt: skip
def test_fewer_devices_take_more_parts(batch: int, part: int | None, devices: int, parts: int) -> None:
    config = dataclasses.replace(load(ROOT / "params.yaml").pretrain, batch_size=batch, device_batch_size=part)
    assert config.parts(devices) == parts


def test_a_batch_needs_two_rows_for_each_device() -> None:
    config = dataclasses.replace(load(ROOT / "params.yaml").pretrain, batch_size=15)
    assert config.parts(7) == 1
    with refuses(ValueError, "batch_size", 15, 8):
        config.parts(8)


@given(st.sampled_from(LEAVES), st.text("abcxyz_", min_size=1))
def test_an_unknown_key_is_named_with_the_known_ones(path: tuple[str, ...], name: str) -> None:
    data = plain()
    section = parent(data, path)
    if (
        path[:-1] == ("release", "metrics")
        or name in section
        or (path[0], name) == ("prepare", "lists")
        or name == "source"
    ):
        return
    section[name] = 1
    with refuses(ConfigError, name, path[-1]):
        from_dict(data, Config)


def test_the_nearest_key_is_suggested() -> None:
    data = plain()
    data["model"]["projektion"] = data["model"].pop("projection")
    with refuses(ConfigError, "params.model.projektion", "'projection'"):
        from_dict(data, Config)
    with refuses(ConfigError, "params.model.projektion", "'projection'"):
        overlay(from_dict(plain(), Config), {"model": {"projektion": 1}})


WRONG = st.one_of(
    st.text(min_size=20), st.lists(st.integers(), min_size=1), st.dictionaries(st.text(), st.integers()), st.none()
)


@given(st.sampled_from(STRICT), WRONG)
def test_a_value_of_another_kind_is_named(path: tuple[str, ...], value: Any) -> None:
    data = plain()
    parent(data, path)[path[-1]] = value
    with refuses(ConfigError, f"params.{'.'.join(path)}"):
        from_dict(data, Config)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 2.0), ("epochs", True), ("compile", 1), ("alpha", "0.4"), ("alpha", False), ("augment", "flip")],
)
def test_kinds_are_not_guessed(field: str, value: Any) -> None:
    data = plain()["pretrain"] | {field: value}
    with refuses(ConfigError, field):
        from_dict(data, PretrainConfig)


def test_a_whole_number_will_do_for_a_float() -> None:
    config = from_dict(plain()["pretrain"] | {"alpha": 1}, PretrainConfig)
    assert config.alpha == 1.0
    assert isinstance(config.alpha, float)


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    # `1e-5` is a text to PyYAML; DVC and we read it with ruamel.
    text = (ROOT / "params.yaml").read_text().replace("tolerance: 1.0e-4", "tolerance: 1e-4")
    (tmp_path / "params.yaml").write_text(text)
    assert load(tmp_path / "params.yaml").export.tolerance == 1e-4


def test_optional_sections() -> None:
    data = plain()["prepare"]
    assert from_dict(data, PrepareConfig).lists is None
    data = copy.deepcopy(data) | {"lists": {"image_root": "images", "files": {"pretrain": ["a.json", "b.json"]}}}
    lists = from_dict(data, PrepareConfig).lists
    assert lists is not None
    assert lists.files == {"pretrain": ["a.json", "b.json"]}
    data["lists"]["files"]["pretrain"] = ["a.json", 3]
    with refuses(ConfigError, "lists.files.pretrain[1]", "str", 3):
        from_dict(data, PrepareConfig)


def test_configurations_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load(ROOT / "params.yaml").export.opset = 1  # type: ignore[misc]


@pytest.mark.parametrize("content", [None, "a: [1", "- 1", ""])
def test_an_unreadable_file_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with refuses(ConfigError, path):
        load(path)
