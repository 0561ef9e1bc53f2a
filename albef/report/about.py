"""Origin of a report: date, commit, data, device and parameters."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from albef import presets
from albef.io import file_hash
from albef.report.section import Cell
from albef.report.source import ReportError, read_json
from albef.tracking.origin import origin

_SECTIONS = ("prepare", "validate", "tokenizer", "model", "init", "pretrain", "text_assignment", "tune", "tasks")
"""Sections that decide results. A change of them changes what the report reads, so it is written again."""
_PRESET = re.compile(r"# (\S+): .*Written by `albef preset`")


def rows(artifacts: Path) -> list[list[Cell]]:
    """Return names and values that identify the results."""
    newest = max(path.stat().st_mtime for path in artifacts.glob("evaluate/*/metrics.json"))
    found: list[list[Cell]] = [["results of", f"{datetime.fromtimestamp(newest, UTC):%Y-%m-%d %H:%M} UTC"]]
    found += [[name.removeprefix("git_").replace("_", "."), value] for name, value in origin().items()]
    if (manifest := artifacts / "data" / "manifest.json").is_file():
        source = read_json(manifest).get("source", "unknown")
        found.append(["data", f"source {source}, sha256 of the manifest {file_hash(manifest)[:12]}"])
    if (tests := artifacts / "behavior" / "tests.json").is_file():
        found.append(["device", str(read_json(tests).get("device", "unknown"))])
    return found


def changed_parameters(params: Path) -> tuple[str, list[list[Cell]]] | None:
    """Return the parameters that differ from their origin: its name; key, value there, value here.

    The origin is the preset that the file was written from, else the file in the last commit. None without either.

    Raises:
        ReportError: If the file is not YAML.
    """
    if not params.is_file():
        return None
    text = params.read_text(encoding="utf-8")
    preset = _PRESET.match(text)
    if preset and preset[1] in presets.names():
        name, original = f"preset {preset[1]}", presets.content(preset[1])
    else:
        command = ["git", "-C", str(params.absolute().parent), "show", f"HEAD:./{params.name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        name, original = f"{params.name} of the last commit", done.stdout
    if not original:
        return None
    try:
        before, here = (_flat(YAML(typ="safe").load(content)) for content in (original, text))
    except YAMLError as error:
        raise ReportError(f"{params}: not valid YAML: {error}") from error
    keys = [key for key in {**before, **here} if key.split(".")[0] in _SECTIONS]
    values = [[key, str(before.get(key, "-")), str(here.get(key, "-"))] for key in keys]
    return name, [[key, there, now] for key, there, now in values if there != now]


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as dotted keys."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {key: v for name, value in values.items() for key, v in _flat(value, f"{prefix}.{name}".lstrip(".")).items()}
