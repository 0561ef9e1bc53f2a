"""State of endpoints: versions of model and index, and the device."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from albef.serving import protocol
from albef.serving.client import Client
from albef.serving.transport import translated_errors
from albef.tasks import registry


def details(client: Client, repository: Path | str, endpoints: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the state of each endpoint.

    Args:
        client: Client of Triton itself.
        repository: Its model repository; the index is read if it is a local folder.

    Returns:
        By endpoint ``version`` of the model, ``device`` of its graphs, "cpu" or "gpu", and ``index``, the generation of
        its search index if there is one.

    Raises:
        ServingError: If the server does not answer.
    """
    with translated_errors(client.url, "models"):
        entries = client.triton.get_model_repository_index(client_timeout=client.timeout).models
    newest: dict[str, int] = {}
    for entry in entries:
        if entry.state == "READY" and entry.version.isdecimal():
            newest[entry.name] = max(newest.get(entry.name, 0), int(entry.version))
    found: dict[str, dict[str, Any]] = {}
    for name in endpoints:
        if name not in newest:
            continue
        found[name] = {"version": newest[name]}
        graph = next(iter(registry.graph_models(name).values()))
        if graph in newest:
            found[name]["device"] = _device(client, graph)
        folder = Path(repository) / name / str(newest[name]) / protocol.INDEX_FOLDER
        if folder.is_dir():
            try:
                found[name]["index"] = json.loads((folder / protocol.INDEX_MANIFEST).read_text())["generation"]
            except (OSError, ValueError, KeyError):  # the endpoint keeps the previous one, and logs the error
                found[name]["index"] = None
    return found


def _device(client: Client, model: str) -> str:
    """Return the kind of device that a graph runs on."""
    from tritonclient.grpc import model_config_pb2

    with translated_errors(client.url, model):
        config = client.triton.get_model_config(model, client_timeout=client.timeout).config
    kinds = {model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) for group in config.instance_group}
    return "gpu" if kinds == {"KIND_GPU"} else "cpu"
