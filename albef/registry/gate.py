"""Comparison of challengers with champions, and promotion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from albef.config import ConfigError, ReleaseConfig
from albef.data.lists import Lists
from albef.export import quantize
from albef.registry.models import (
    ALIASES,
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    RegistryError,
    Version,
    by_alias,
    client,
    hash_test_list,
    registered_name,
    version,
)
from albef.serving.access import NOBODY, Credentials
from albef.serving.client import Client
from albef.tasks import registry as tasks

OTHER_LIST = "the champion was evaluated on another test list"


@dataclass(frozen=True)
class Verdict:
    """Result of comparing a challenger with the champion.

    Args:
        champion: Version number of the champion; None if there is no champion.
        before, after: Metric of champion and challenger; None if there is nothing to compare.
        said: Explanation of the result.
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
    credentials: Credentials = NOBODY,
) -> list[Verdict]:
    """Compare every challenger with its champion on the test split.

    If the champion's metrics are of another test list, the served champion is evaluated on the current one, given its
    address ``url``. This excludes retrieval, because the served index does not hold the images of the test list.

    Args:
        lists: Current test lists; needed with ``images`` and ``url``.
        credentials: Of a client of that server.

    Raises:
        RegistryError: If there is no challenger.
    """
    registry = client(uri)
    connect = partial(Client, url, timeout=120, **credentials.options(url)) if url else None
    return [
        _compare(config, challenger, by_alias(registry, challenger.endpoint, CHAMPION), connect, lists, images)
        for challenger in _all_with_alias(registry, CHALLENGER, "run `albef registry register` first")
    ]


def _metric_of(config: ReleaseConfig, endpoint: str) -> str:
    """Return the metric that decides over the release of an endpoint.

    Raises:
        ConfigError: If the parameters name none, or one that the task does not have.
    """
    known, metric = tasks.spec(endpoint).release_metrics, config.metrics.get(endpoint)
    if metric not in known:
        raise ConfigError(f"params.release.metrics.{endpoint}: expected one of {', '.join(known)}, got {metric!r}")
    return str(metric)


def _compare(
    config: ReleaseConfig,
    challenger: Version,
    champion: Version | None,
    connect: Callable[[], Client] | None,
    lists: Path | None,
    images: Path | None,
) -> Verdict:
    endpoint = challenger.endpoint
    metric = _metric_of(config, endpoint)
    if metric not in challenger.metrics:
        raise RegistryError(
            f"params.release.metrics.{endpoint}: no metric {metric} in the evaluation, expected one of "
            f"{', '.join(sorted(challenger.metrics))}"
        )
    after = challenger.metrics[metric]

    def verdict(before: float | None, passed: bool, reason: str) -> Verdict:
        number = champion.number if champion else None
        return Verdict(endpoint, metric, challenger.number, number, before, after, passed, reason)

    if champion is None:
        return verdict(None, True, "there is no champion yet")
    if champion.number == challenger.number:
        return verdict(after, True, "is already the champion")
    before = champion.metrics.get(metric) if champion.data == challenger.data else None
    if before is None:
        # The served index holds other images than the test list, and answers give no metric but accuracy.
        if metric != "accuracy":
            return verdict(None, False, f"{OTHER_LIST}; register it again with an evaluation on the current one")
        if not (connect and lists and images):
            return verdict(None, False, f"{OTHER_LIST}; give --url of its server, --lists and --images")
        before = _evaluate_served(challenger, connect, lists, images)
    lost = before - after
    if lost > config.max_regression:
        return verdict(before, False, f"loses {lost:.4f}, more than release.max_regression, {config.max_regression:g}")
    return verdict(before, True, f"loses {lost:.4f}" if lost > 0 else f"gains {abs(lost):.4f}")


def _evaluate_served(challenger: Version, connect: Callable[[], Client], lists: Path, images: Path) -> float:
    """Return the accuracy of the served champion on the current test list."""
    endpoint = challenger.endpoint
    if hash_test_list(lists, endpoint) != challenger.data:
        raise RegistryError(
            f"{lists}: not the test list that version {challenger.number} of {endpoint} was evaluated on"
        )
    with connect() as served:
        (values,) = quantize.scores(served, endpoint, Lists(lists, images)).values()
    return sum(values) / len(values)


def promote(triton_version: int | None = None, uri: str | None = None) -> list[Version]:
    """Make the challengers champions; the old champions get the alias ``previous``.

    Args:
        triton_version: Version number in the Triton server, stored as a tag.

    Raises:
        RegistryError: If there is no challenger.
    """
    registry = client(uri)
    promoted = []
    for challenger in _all_with_alias(registry, CHALLENGER, "run `albef registry register` first"):
        champion = by_alias(registry, challenger.endpoint, CHAMPION)
        name, number = registered_name(challenger.endpoint), str(challenger.number)
        if triton_version is not None:
            registry.set_model_version_tag(name, number, "triton_version", str(triton_version))
        if champion is not None and champion.number != challenger.number:
            registry.set_registered_model_alias(name, PREVIOUS, str(champion.number))
        registry.set_registered_model_alias(name, CHAMPION, number)
        registry.delete_registered_model_alias(name, CHALLENGER)
        promoted.append(version(registry, challenger.endpoint, challenger.number))
    return promoted


def revert(uri: str | None = None) -> list[Version]:
    """Restore the previous champions, after ``albef rollback``.

    Raises:
        RegistryError: If no endpoint has a previous champion.
    """
    registry = client(uri)
    restored = _all_with_alias(registry, PREVIOUS, "there is nothing to revert to")
    for previous in restored:
        name = registered_name(previous.endpoint)
        registry.set_registered_model_alias(name, CHAMPION, str(previous.number))
        registry.delete_registered_model_alias(name, PREVIOUS)
    return restored


def aliased_versions(uri: str | None = None) -> list[tuple[str, Version]]:
    """Return alias and version of every version that has an alias."""
    registry = client(uri)
    pairs = ((alias, by_alias(registry, name, alias)) for name in tasks.served_tasks() for alias in ALIASES)
    return [(alias, entry) for alias, entry in pairs if entry is not None]


def _all_with_alias(registry: Any, alias: str, advice: str) -> list[Version]:
    """Return the version with an alias, of every endpoint that has one."""
    entries = [entry for name in tasks.served_tasks() if (entry := by_alias(registry, name, alias))]
    if not entries:
        raise RegistryError(f"no {alias} in the registry: {advice}")
    return entries
