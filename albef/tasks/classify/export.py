"""Settings of the classification endpoint."""

from __future__ import annotations

from albef.config import Config
from albef.data.lists import Lists
from albef.serving import protocol
from albef.tasks.classify import spec
from albef.tasks.endpoint_folder import EndpointFolder


def write_endpoint(folder: EndpointFolder, config: Config, data: Lists) -> None:
    """Write the settings of the classification endpoint."""
    folder.write_settings(spec.ClassifySettings, temperature=float(folder.origin[protocol.TEMPERATURE_KEY]))
