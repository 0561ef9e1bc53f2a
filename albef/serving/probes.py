"""Probe requests that test whether the endpoints of a server answer.

Triton may report a model as ready although its process has died, so only an answer proves that it works.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from albef.serving.client import Client
from albef.serving.requests import ServingError
from albef.tasks import registry


class ProbeError(ServingError):
    """The answer of an endpoint is not the expected one."""


@dataclass(frozen=True)
class Probe:
    """Request to an endpoint with an optional expected answer.

    Args:
        text: Input text; None for retrieval by image.
        image: Path or content of an image file.
        expect: Id, caption or answer expected among the first ``k``, or the expected most probable label. By default
            any answer is accepted.
    """

    endpoint: str
    text: str | None = None
    image: Path | bytes | None = None
    expect: str | None = None
    k: int = 5

    @classmethod
    def from_json(cls, row: Any, folder: Path) -> Probe:
        """Create a probe from a JSON object.

        Args:
            folder: Folder that image paths are relative to.

        Raises:
            ValueError: If the object is not a probe; the message names the key.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(row, dict) or set(row) - set(known):
            raise ValueError(f"expected an object with some of {', '.join(known)}, got {row!r}")
        endpoints = registry.endpoints()
        if row.get("endpoint") not in endpoints:
            raise ValueError(f"endpoint: expected one of {', '.join(endpoints)}, got {row.get('endpoint')!r}")
        if row.get("expect") is not None and not hasattr(registry.client(row["endpoint"]), "accepted"):
            raise ValueError(f"expect: not supported for {row['endpoint']}, whose answer is not a text")
        for key, kind in (("text", str), ("image", str), ("expect", str), ("k", int)):
            if row.get(key) is not None and not isinstance(row[key], kind):
                raise ValueError(f"{key}: expected {kind.__name__}, got {row[key]!r}")
        probe = cls(**row)
        return replace(probe, image=folder / str(row["image"])) if row.get("image") else probe

    def ask(self, client: Client) -> None:
        """Send the request and check the answer.

        Raises:
            ProbeError: If the answer is not the expected one.
            ServingError: If there is no answer.
        """
        module = registry.client(self.endpoint)
        (answer,) = client.ask(module.probe(self.text, self.image, self.k))
        if self.expect is not None and self.expect not in (answers := module.accepted(answer)):
            query = self.text if self.text is not None else self.image
            raise ProbeError(f"query {query!r}: expected {self.expect!r} among the answers, got {answers}")


def default_probes(endpoints: Iterable[str]) -> list[Probe]:
    """Return one probe per endpoint that accepts any answer."""
    return [Probe(name, text="a", k=1) for name in endpoints]
