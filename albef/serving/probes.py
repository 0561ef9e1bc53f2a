"""Questions that tell whether a server works: a model may say that it is ready when its process is gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from albef.serving import protocol
from albef.serving.client import Client
from albef.serving.requests import ServingError

# A grey pixel, as a PPM file.
_PICTURE = b"P6 1 1 255\n\x80\x80\x80"


class ProbeError(ServingError):
    """An endpoint answered something else than it was to."""


@dataclass(frozen=True)
class Probe:
    """A question to an endpoint.

    Args:
        text: Absent where retrieval is asked by image.
        image: A file, or its bytes.
        expect: What is to be among the answers: an id, a caption or an answer among the first ``k``, or the likeliest
            label. By default any answer will do.
    """

    endpoint: str
    text: str | None = None
    image: Path | bytes | None = None
    expect: str | None = None
    k: int = 5

    @classmethod
    def of(cls, row: Any, folder: Path) -> Probe:
        """A probe from a JSON object.

        Raises:
            ValueError: If it is none; the message says what was expected.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(row, dict) or set(row) - set(known):
            raise ValueError(f"expected an object with some of {', '.join(known)}, got {row!r}")
        if row.get("endpoint") not in protocol.ENDPOINTS:
            raise ValueError(f"endpoint: expected one of {', '.join(protocol.ENDPOINTS)}, got {row.get('endpoint')!r}")
        if row.get("expect") is not None and row["endpoint"] == protocol.GROUNDING.name:
            raise ValueError("expect: the answer of grounding is no text")
        for key, kind in (("text", str), ("image", str), ("expect", str), ("k", int)):
            if row.get(key) is not None and not isinstance(row[key], kind):
                raise ValueError(f"{key}: expected {kind.__name__}, got {row[key]!r}")
        probe = cls(**row)
        return replace(probe, image=folder / str(row["image"])) if row.get("image") else probe

    def ask(self, client: Client) -> None:
        """Ask the endpoint.

        Raises:
            ProbeError: If the answer is not the expected one.
            ServingError: If there is no answer.
        """
        found = self._answers(client)
        if self.expect is not None and self.expect not in found:
            asked = self.text if self.text is not None else self.image
            raise ProbeError(f"asked {asked!r}, expected {self.expect!r} among the answers, got {found}")

    def _answers(self, client: Client) -> list[str]:
        text, image = self.text or "", self.image if self.image is not None else _PICTURE
        if self.endpoint == protocol.RETRIEVAL.name:
            return [match.id for match in client.retrieve(self.text, self.image, k=self.k)]
        if self.endpoint == protocol.VQA.name:
            return [answer.text for answer in client.answer(image, text, k=self.k)]
        if self.endpoint == protocol.ENTAILMENT.name:
            labels = client.entail(image, text)
            return [max(labels, key=lambda label: labels[label])]
        client.ground(image, text)
        return []


def standard(endpoints: Iterable[str]) -> list[Probe]:
    """A question to each of some endpoints."""
    return [Probe(name, text="a", k=1) for name in endpoints]
