"""Folder of an endpoint in a model repository that is being written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from albef.serving.protocol import SETTINGS_FILE, Settings


@dataclass(frozen=True)
class EndpointFolder:
    """Version folder of an endpoint, already containing ``model.py`` and the tokenizer.

    Args:
        path: Path of the folder.
        origin: ONNX metadata common to the graphs of the task.
        common: Values of the settings that all endpoints have.
    """

    path: Path
    origin: Mapping[str, str]
    common: Mapping[str, Any]

    def write_settings(self, kind: type[Settings], **values: Any) -> None:
        """Write the settings file.

        It has the common settings and ``values`` for the fields added by ``kind``.
        """
        text = json.dumps(asdict(kind(**self.common, **values)), indent=1) + "\n"
        (self.path / SETTINGS_FILE).write_text(text, encoding="utf-8")
