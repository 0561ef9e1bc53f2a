"""Recorder of the parameters that each stage reads.

On ``PYTHONPATH``, it writes one file for each `albef` command that DVC runs.
"""

import atexit
import dataclasses
import json
import os
import sys
from pathlib import Path

if "ALBEF_RECORD" in os.environ and "DVC_STAGE" in os.environ and Path(sys.argv[0] or sys.orig_argv[-1]).name:
    import albef.config as configuration

    _paths: dict[int, str] = {}
    _kept: list[object] = []  # an id is only good while its object lives
    _read: set[str] = set()
    _load = configuration.load

    def _register(section: object, path: str) -> None:
        type(section).__getattribute__ = _recording  # type: ignore[method-assign,assignment]
        _paths[id(section)] = path
        _kept.append(section)
        for field in dataclasses.fields(section):  # type: ignore[arg-type]
            value = object.__getattribute__(section, field.name)
            if dataclasses.is_dataclass(value):
                _register(value, f"{path}{field.name}.")

    def _recording(self: object, name: str) -> object:
        value = object.__getattribute__(self, name)
        path = _paths.get(id(self))
        if path is not None and not name.startswith("_") and not dataclasses.is_dataclass(value):
            _read.add(path + name)
        return value

    def _loaded(*args: object, **kwargs: object) -> object:
        config = _load(*args, **kwargs)  # type: ignore[arg-type]
        _register(config, "")
        return config

    configuration.load = _loaded  # type: ignore[assignment]

    @atexit.register
    def _write() -> None:
        if _paths:
            target = Path(os.environ["ALBEF_RECORD"]) / f"{os.environ['DVC_STAGE']}.json"
            target.write_text(json.dumps(sorted(_read)))
