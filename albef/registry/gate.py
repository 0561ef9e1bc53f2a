"""Whether the challengers may take the place of the champions, and the change of places."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef.config import ReleaseConfig
from albef.data.files import image_root
from albef.export import quantize
from albef.registry.models import (
    ALIASES,
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    RegistryError,
    Version,
    alias,
    client,
    data_of,
    name_of,
    version,
)
from albef.serving import protocol
from albef.serving.client import Client

OTHER_LIST = "the champion's figures are of another test list"


@dataclass(frozen=True)
class Verdict:
    """A challenger beside the champion.

    Args:
        champion: Number of the champion's version, None without one.
        before, after: The metric of champion and challenger, None where there is none to compare.
        said: What came of it, in words.
    """

    endpoint: str
    metric: str
    challenger: int
    champion: int | None
    before: float | None
    after: float | None
    passed: bool
    said: str


def compare(
    config: ReleaseConfig,
    uri: str | None = None,
    url: str | None = None,
    lists: Path | None = None,
    images: Path | None = None,
) -> list[Verdict]:
    """Compare every challenger with its champion on the test split.

    Where the champion's metrics are of another test list, the champion is asked the questions of the present one if
    ``url`` says where it is served; retrieval is not, as the gallery that is served is not the test list's.

    Args:
        lists: The present test lists, with ``images`` and ``url``.

    Raises:
        RegistryError: If there is no challenger.
    """
    registry = client(uri)
    return [
        _judge(config, challenger, alias(registry, challenger.endpoint, CHAMPION), url, lists, images)
        for challenger in _all(registry, CHALLENGER, "`albef registry register` makes them")
    ]


def _judge(
    config: ReleaseConfig,
    challenger: Version,
    champion: Version | None,
    url: str | None,
    lists: Path | None,
    images: Path | None,
) -> Verdict:
    endpoint = challenger.endpoint
    metric = getattr(config.metrics, endpoint)
    if metric not in challenger.metrics:
        raise RegistryError(
            f"params.release.metrics.{endpoint}: no {metric} in the evaluation, expected one of "
            f"{', '.join(sorted(challenger.metrics))}"
        )
    after = challenger.metrics[metric]

    def say(before: float | None, passed: bool, said: str) -> Verdict:
        number = champion.number if champion else None
        return Verdict(endpoint, metric, challenger.number, number, before, after, passed, said)

    if champion is None:
        return say(None, True, "the first of its kind")
    if champion.number == challenger.number:
        return say(after, True, "is the champion already")
    before = champion.metrics.get(metric) if champion.data == challenger.data else None
    if before is None:
        # A server's gallery is not the test list's, and of the rest this is what its answers tell.
        if endpoint == protocol.RETRIEVAL.name or metric != "accuracy":
            return say(None, False, f"{OTHER_LIST}; register it again with an evaluation on the present one")
        if not (url and lists and images):
            return say(None, False, f"{OTHER_LIST}; say where it is served (--url), and --lists and --images")
        before = _asked(challenger, url, lists, images)
    lost = before - after
    if lost > config.max_regression:
        return say(before, False, f"loses {lost:.4f}, more than release.max_regression, {config.max_regression:g}")
    return say(before, True, f"loses {lost:.4f}" if lost > 0 else f"gains {abs(lost):.4f}")


def _asked(challenger: Version, url: str, lists: Path, images: Path) -> float:
    """The champion's metric on the present test list, asked of the server."""
    endpoint = challenger.endpoint
    if data_of(lists, endpoint) != challenger.data:
        raise RegistryError(f"{lists}: not the test list of version {challenger.number} of {endpoint}")
    with Client(url, timeout=120) as served:
        (values,) = quantize.scores(served, endpoint, lists, image_root(images)).values()
    return sum(values) / len(values)


def promote(triton_version: int | None = None, uri: str | None = None) -> list[Version]:
    """Make the challengers champions; the champions before stay as ``previous``.

    Args:
        triton_version: The version that answers in the server, noted with them.

    Raises:
        RegistryError: If there is no challenger.
    """
    registry = client(uri)
    promoted = []
    for challenger in _all(registry, CHALLENGER, "`albef registry register` makes them"):
        champion = alias(registry, challenger.endpoint, CHAMPION)
        name, number = name_of(challenger.endpoint), str(challenger.number)
        if triton_version is not None:
            registry.set_model_version_tag(name, number, "triton_version", str(triton_version))
        if champion is not None and champion.number != challenger.number:
            registry.set_registered_model_alias(name, PREVIOUS, str(champion.number))
        registry.set_registered_model_alias(name, CHAMPION, number)
        registry.delete_registered_model_alias(name, CHALLENGER)
        promoted.append(version(registry, challenger.endpoint, challenger.number))
    return promoted


def revert(uri: str | None = None) -> list[Version]:
    """Make those champions again that were it before, after ``albef rollback``.

    Raises:
        RegistryError: If no endpoint has a previous champion.
    """
    registry = client(uri)
    found = _all(registry, PREVIOUS, "there is nothing to go back to")
    for before in found:
        registry.set_registered_model_alias(name_of(before.endpoint), CHAMPION, str(before.number))
        registry.delete_registered_model_alias(name_of(before.endpoint), PREVIOUS)
    return found


def shown(uri: str | None = None) -> list[tuple[str, Version]]:
    """Every version that has an alias."""
    registry = client(uri)
    pairs = ((which, alias(registry, name, which)) for name in protocol.ENDPOINTS for which in ALIASES)
    return [(which, found) for which, found in pairs if found is not None]


def _all(registry: Any, which: str, advice: str) -> list[Version]:
    """Of every endpoint that has one, the version with an alias."""
    found = [each for name in protocol.ENDPOINTS if (each := alias(registry, name, which))]
    if not found:
        raise RegistryError(f"no {which} in the registry: {advice}")
    return found
