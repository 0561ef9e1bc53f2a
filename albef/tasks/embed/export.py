"""Settings of the embedding endpoint."""

from __future__ import annotations

from albef.config import Config
from albef.data.lists import Lists
from albef.serving.protocol import Settings
from albef.tasks.endpoint_folder import EndpointFolder


def write_endpoint(folder: EndpointFolder, config: Config, data: Lists) -> None:
    """Write the settings, which are those that all endpoints have."""
    folder.write_settings(Settings)
