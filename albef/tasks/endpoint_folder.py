"""Folder of an endpoint in the model repository, while it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from albef.serving.protocol import SETTINGS_FILE, Settings


@dataclass(frozen=True)
class RepositoryInputs:
    """Data that endpoints may copy or index.

    Args:
        lists: Folder of the validated lists.
        images: Folder that relative image paths start from.
    """

    lists: Path
    images: Path


@dataclass(frozen=True)
class EndpointFolder:
    """Version folder of an endpoint; ``model.py`` and the tokenizer are in place.

    Args:
        path: The folder.
        origin: Metadata that the graphs of the task share.
        common: Settings that all endpoints have.
    """

    path: Path
    origin: Mapping[str, str]
    common: Mapping[str, Any]

    def write_settings(self, kind: type[Settings], **values: Any) -> None:
        """Write the settings: the common ones, and ``values`` for what ``kind`` adds."""
        text = json.dumps(asdict(kind(**self.common, **values)), indent=1) + "\n"
        (self.path / SETTINGS_FILE).write_text(text, encoding="utf-8")
