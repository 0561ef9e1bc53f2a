"""Release and rollback of model versions in a running server.

A model repository holds several versions, and Triton answers with the newest loaded one. A release tests the new
version before it answers:

1. The graphs of the new version are loaded next to the old ones. Only endpoints of the same version call them.
2. The new endpoints are loaded under other names, as candidates, and have to answer probes.
3. They move to their final names and are loaded there. From then on they answer; the old version stays loaded.

If a step fails, the new version is removed; the old one answers all the time. The server must run on a folder that this
process can write to, and its administrator's key must be known.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from albef.serving import pbtxt
from albef.serving.access import NOBODY, Credentials
from albef.serving.client import Client
from albef.serving.probes import Probe, default_probes
from albef.serving.requests import Request, ServingError
from albef.tasks import registry

T = TypeVar("T")
_logger = logging.getLogger(__name__)
CANDIDATE = "_candidate"
"""Suffix of a candidate endpoint's name."""
WITHDRAWN = "withdrawn-"
"""Prefix of a withdrawn version's folder; Triton only loads folders with numeric names."""
KEPT = 2
"""Versions that are kept, as in the configurations: the newest and the one for a rollback."""


class ReleaseError(ServingError):
    """A release or rollback failed; the previous version still answers."""


class _CandidateClient(Client):
    """Client of the candidate endpoints."""

    def ask(self, request: Request[T]) -> list[T]:
        return super().ask(replace(request, spec=replace(request.spec, name=request.spec.name + CANDIDATE)))


def versions(model: Path) -> list[int]:
    """Return the versions of a model in its repository, ascending."""
    return sorted(int(path.name) for path in model.iterdir() if path.name.isdigit())


def models(repository: Path) -> list[str]:
    """Return the models of a repository, except candidates.

    Raises:
        ReleaseError: If there are none.
    """
    names = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    names = [name for name in names if not name.endswith(CANDIDATE)]
    if not names:
        raise ReleaseError(f"{repository}: not a model repository, expected <model>/config.pbtxt in it")
    return names


def _used_versions(model: Path) -> list[int]:
    """Return all version numbers that a model has used, including withdrawn ones."""
    names = [path.name.removeprefix(WITHDRAWN) for path in model.iterdir()] if model.is_dir() else []
    return [int(name) for name in names if name.isdigit()]


def _signature(path: Path) -> tuple[Any, ...]:
    config = pbtxt.parse(path)
    return tuple((tensor.name, tensor.data_type, tuple(tensor.dims)) for tensor in (*config.input, *config.output))


@dataclass(frozen=True)
class _Plan:
    """Models to release.

    Args:
        live: Model repository that the server uses.
        new: Model repository with the new models.
        version: Number of the new version in ``live``.
    """

    live: Path
    new: Path
    version: int
    graphs: list[str]
    endpoints: list[str]


def _plan(live: Path, new: Path, version: int | None) -> _Plan:
    names = models(new)
    models(live)
    last = max((number for name in names for number in _used_versions(live / name)), default=0)
    if version is not None and version <= last:
        raise ReleaseError(f"{live}: version {version} is not above {last}, the last version of this repository")
    for name in names:
        if (live / name).is_dir() and _signature(live / name / "config.pbtxt") != _signature(
            new / name / "config.pbtxt"
        ):
            raise ReleaseError(
                f"{name}: the new version has other tensors than the served one, so both cannot be loaded together; "
                "serve the new repository with another server"
            )
        if not versions(new / name):
            raise ReleaseError(f"{new / name}: no version of the model in this folder")
    endpoints = [name for name in names if name in registry.endpoints()]
    return _Plan(live, new, version or last + 1, [name for name in names if name not in endpoints], endpoints)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder atomically."""
    aside = target.with_name(f"copying-{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside)
    os.replace(aside, target)


class _Rollout:
    """Steps of a release."""

    def __init__(self, plan: _Plan, client: Client, options: Mapping[str, Any]) -> None:
        self.plan, self.triton, self.client, self.options = plan, client.triton, client, options

    def load(self, name: str) -> None:
        """Load a model from the current state of the repository."""
        with self._explained(name, "loaded"):
            self.triton.load_model(name, headers=self.client.headers)

    def unload(self, name: str) -> None:
        """Unload a model and wait until it is unloaded."""
        with self._explained(name, "unloaded"):
            self.triton.unload_model(name, headers=self.client.headers)
        self.wait_for_end(name)

    def wait_for_end(self, name: str, version: int | None = None) -> None:
        """Wait until a model, or one version of it, has answered all requests and is unloaded."""
        deadline = time.monotonic() + self.client.timeout
        with self._explained(name, "unloaded"):
            while any(
                model.name == name
                and version in (None, int(model.version or 0))
                and model.state not in ("", "UNAVAILABLE")
                for model in self._model_states()
            ):
                if time.monotonic() > deadline:
                    raise ReleaseError(f"{self.client.url}: {name} is still loaded after {self.client.timeout:g} s")
                time.sleep(0.05)

    @contextmanager
    def _explained(self, name: str, done: str) -> Iterator[None]:
        """Turn a failure of the server into the sentence that says what could not be done."""
        from tritonclient.utils import InferenceServerException

        try:
            yield
        except InferenceServerException as error:
            raise ReleaseError(f"{self.client.url}: {name}: cannot be {done}: {error.message()}") from error

    def _model_states(self) -> Sequence[Any]:
        states: Sequence[Any] = self.triton.get_model_repository_index(headers=self.client.headers).models
        return states

    def add_graphs(self) -> None:
        """Load the new graphs next to the old ones."""
        for name in self.plan.graphs:
            self._add(name, name)
            self.load(name)

    def _add(self, name: str, target: str) -> None:
        folder = self.plan.live / target
        if not (folder / "config.pbtxt").is_file():
            folder.mkdir(exist_ok=True)
            text = (self.plan.new / name / "config.pbtxt").read_text(encoding="utf-8")
            (folder / "config.pbtxt").write_text(text.replace(f'name: "{name}"', f'name: "{target}"', 1), "utf-8")
        _copy(self.plan.new / name / str(versions(self.plan.new / name)[-1]), folder / str(self.plan.version))

    def probe_candidates(self, probes: Sequence[Probe]) -> None:
        """Load the new endpoints as candidates, probe them, and unload them."""
        for name in self.plan.endpoints:
            self._add(name, name + CANDIDATE)
            self.load(name + CANDIDATE)
        with _CandidateClient(self.client.url, timeout=self.client.timeout, **self.options) as candidate:
            _check(candidate, probes)
        for name in self.plan.endpoints:
            self.unload(name + CANDIDATE)

    def promote(self, probes: Sequence[Probe]) -> None:
        """Load the new endpoints under their final names and probe them."""
        for name in self.plan.endpoints:
            folder = self.plan.live / name
            folder.mkdir(exist_ok=True)
            candidate = self.plan.live / (name + CANDIDATE)
            if not (folder / "config.pbtxt").is_file():
                shutil.copyfile(self.plan.new / name / "config.pbtxt", folder / "config.pbtxt")
            os.replace(candidate / str(self.plan.version), folder / str(self.plan.version))
            self.load(name)
        _check(self.client, probes)

    def undo(self) -> None:
        """Remove everything that was added; the old version still answers."""
        added = [(name + CANDIDATE, self.unload) for name in self.plan.endpoints]
        added += [(name, self._withdraw) for name in (*self.plan.endpoints, *self.plan.graphs)]
        for name, remove in added:
            if (self.plan.live / name / str(self.plan.version)).is_dir():
                try:
                    remove(name)
                except ReleaseError as error:  # remove the others all the same
                    _logger.error("cannot remove %s version %d: %s", name, self.plan.version, error)
        self.clean()

    def _withdraw(self, name: str) -> None:
        folder = self.plan.live / name
        shutil.rmtree(folder / str(self.plan.version))
        if versions(folder):
            self.load(name)
            self.wait_for_end(name, self.plan.version)
        else:
            self.unload(name)
            shutil.rmtree(folder)

    def clean(self) -> None:
        """Remove temporary files of this release and of killed ones."""
        for path in self.plan.live.glob(f"*{CANDIDATE}"):
            shutil.rmtree(path)
        for path in self.plan.live.glob("*/copying-*"):
            shutil.rmtree(path)

    def remove_old_versions(self) -> None:
        """Remove versions that are too old for a rollback.

        Triton has already unloaded them.
        """
        for name in (*self.plan.endpoints, *self.plan.graphs):
            for version in versions(self.plan.live / name)[:-KEPT]:
                shutil.rmtree(self.plan.live / name / str(version))


def _check(client: Client, probes: Sequence[Probe]) -> None:
    for probe in probes:
        try:
            probe.ask(client)
        except ServingError as error:
            raise ReleaseError(f"{probe.endpoint}: {error}") from error


def release(
    live: Path,
    new: Path,
    url: str,
    probes: Sequence[Probe] = (),
    version: int | None = None,
    timeout: float = 120.0,
    credentials: Credentials = NOBODY,
) -> int:
    """Release the models of a repository into a running server.

    Args:
        live: Model repository that the server uses.
        new: Model repository with the new models, written by `albef.export.repository`.
        url: Host and port of the server's gRPC service.
        probes: Probes that the new version has to answer, in addition to one per endpoint.
        version: Number of the new version; by default the next one.
        timeout: Seconds for each answer.
        credentials: The administrator's, for a server elsewhere.

    Returns:
        The version number.

    Raises:
        ReleaseError: If the new version cannot be loaded or fails a probe; it is removed then.
    """
    plan = _plan(live, new, version)
    checks = [*default_probes(plan.endpoints), *(probe for probe in probes if probe.endpoint in plan.endpoints)]
    options = credentials.options(url)
    with Client(url, timeout=timeout, **options) as client:
        rollout = _Rollout(plan, client, options)
        rollout.clean()
        try:
            rollout.add_graphs()
            rollout.probe_candidates(checks)
            rollout.promote(checks)
        except BaseException:
            rollout.undo()
            raise
        rollout.clean()
        rollout.remove_old_versions()
    return plan.version


def rollback(live: Path, url: str, timeout: float = 120.0, credentials: Credentials = NOBODY) -> int:
    """Return to the version before the newest one.

    The newest version is kept in a renamed folder; its number is not reused. The arguments are those of `release`.

    Returns:
        The version that answers now.

    Raises:
        ReleaseError: If there is no previous version, or it does not answer.
    """
    names = models(live)
    endpoints = [name for name in names if name in registry.endpoints()]
    newest = max((number for name in endpoints for number in versions(live / name)), default=0)
    affected = [name for name in names if newest in versions(live / name)]
    before = sorted({number for name in affected for number in versions(live / name)} - {newest})
    if not before or any(before[-1] not in versions(live / name) for name in affected):
        raise ReleaseError(f"{live}: no version before {newest} to roll back to")
    options = credentials.options(url)
    with Client(url, timeout=timeout, **options) as client:
        rollout = _Rollout(_Plan(live, live, newest, [], []), client, options)
        # Endpoints first: an endpoint needs its graphs until it has answered the requests that it has accepted.
        for name in sorted(affected, key=lambda name: name not in endpoints):
            os.replace(live / name / str(newest), live / name / f"{WITHDRAWN}{newest}")
            rollout.load(name)
            rollout.wait_for_end(name, newest)
        _check(client, default_probes([name for name in endpoints if name in affected]))
    return before[-1]


def read_probes(path: Path) -> list[Probe]:
    """Read probes from a JSON list; see `Probe`.

    Image paths are relative to the folder of the list.

    Raises:
        ReleaseError: If the file is not a list of probes; the message names the entry.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{path}: cannot read the probes ({error})") from error
    if not isinstance(rows, list):
        raise ReleaseError(f"{path}: expected a list of probes")
    probes = []
    for number, row in enumerate(rows):
        try:
            probes.append(Probe.from_json(row, path.parent))
        except (TypeError, ValueError) as error:
            raise ReleaseError(f"{path}, entry {number}: {error}") from error
    return probes
