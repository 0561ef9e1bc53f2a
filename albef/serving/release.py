"""Putting a new version of the models into a running server, and taking it out again; no request is lost.

A model repository holds versions side by side, and Triton answers from the newest that is loaded. So that nobody is
answered by a version before it was tried:

1. the graphs of the new version are loaded beside the old ones; only endpoints of their own version call them;
2. the new endpoints are loaded under other names, as candidates, and asked real questions;
3. they move to their own names and are loaded there: from then on they answer. The old version stays loaded.

Whatever fails, what was added is taken out again, and the old version never stopped. The server must have been started
with ``--model-control-mode=explicit`` (`albef serve --explicit`), on a folder that this process can write to.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from albef.serving import pbtxt, protocol
from albef.serving.client import Client
from albef.serving.probes import Probe, standard
from albef.serving.requests import Call, ServingError

T = TypeVar("T")
_logger = logging.getLogger(__name__)
CANDIDATE = "_candidate"
"""Added to the name of an endpoint on trial."""
WITHDRAWN = "withdrawn-"
"""Begins the folder of a version that was taken back; Triton sees numbers alone."""
KEPT = 2
"""Versions that stay, as in the configurations: the newest, and the one to go back to."""


class ReleaseError(ServingError):
    """A version was not released, or not taken back; the one before answers on."""


class _CandidateClient(Client):
    """Asks the endpoints on trial."""

    def ask(self, call: Call[T]) -> list[T]:
        return super().ask(replace(call, spec=replace(call.spec, name=call.spec.name + CANDIDATE)))


def versions(model: Path) -> list[int]:
    """Versions of a model in its repository, ascending."""
    return sorted(int(path.name) for path in model.iterdir() if path.name.isdigit())


def models(repository: Path) -> list[str]:
    """Models of a repository, but for candidates.

    Raises:
        ReleaseError: If it has none.
    """
    found = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    names = [name for name in found if not name.endswith(CANDIDATE)]
    if not names:
        raise ReleaseError(f"{repository}: no model repository (no <model>/config.pbtxt)")
    return names


def _taken(model: Path) -> list[int]:
    """Numbers that a model has used, those of withdrawn versions included."""
    names = [path.name.removeprefix(WITHDRAWN) for path in model.iterdir()] if model.is_dir() else []
    return [int(name) for name in names if name.isdigit()]


def _signature(path: Path) -> tuple[Any, ...]:
    config = pbtxt.parse(path)
    return tuple((tensor.name, tensor.data_type, tuple(tensor.dims)) for tensor in (*config.input, *config.output))


@dataclass(frozen=True)
class _Plan:
    """What is to be released.

    Args:
        live, new: Model repositories.
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
    taken = max((number for name in names for number in _taken(live / name)), default=0)
    if version is not None and version <= taken:
        raise ReleaseError(f"{live}: version {version} is not above {taken}, which the repository has had already")
    for name in names:
        if (live / name).is_dir() and _signature(live / name / "config.pbtxt") != _signature(
            new / name / "config.pbtxt"
        ):
            raise ReleaseError(
                f"{name}: the new version has other tensors than the one that is served; such models cannot be loaded "
                "side by side: serve the new repository by a server of its own"
            )
        if not versions(new / name):
            raise ReleaseError(f"{new / name}: no version here")
    endpoints = [name for name in names if name in protocol.ENDPOINTS]
    return _Plan(live, new, version or taken + 1, [name for name in names if name not in endpoints], endpoints)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder; it appears whole."""
    aside = target.with_name(f"copying-{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside)
    os.replace(aside, target)


class _Switch:
    """One release, step by step."""

    def __init__(self, plan: _Plan, client: Client) -> None:
        self.plan, self.triton, self.client = plan, client.triton, client

    def load(self, name: str) -> None:
        """Load a model as it lies in the repository now."""
        from tritonclient.utils import InferenceServerException

        try:
            self.triton.load_model(name)
        except InferenceServerException as error:
            raise ReleaseError(f"{self.client.url}: {name}: cannot be loaded: {error.message()}") from error

    def unload(self, name: str) -> None:
        """Unload a model, and wait until it is gone."""
        from tritonclient.utils import InferenceServerException

        try:
            self.triton.unload_model(name)
            deadline = time.monotonic() + self.client.timeout
            while any(m.name == name and m.state not in ("", "UNAVAILABLE") for m in self._index()):
                if time.monotonic() > deadline:
                    raise ReleaseError(f"{self.client.url}: {name} is still loaded after {self.client.timeout:g} s")
                time.sleep(0.05)
        except InferenceServerException as error:
            raise ReleaseError(f"{self.client.url}: {name}: cannot be unloaded: {error.message()}") from error

    def _index(self) -> Sequence[Any]:
        found: Sequence[Any] = self.triton.get_model_repository_index().models
        return found

    def add_graphs(self) -> None:
        """Load the new graphs beside the old ones."""
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

    def try_out(self, probes: Sequence[Probe]) -> None:
        """Load the new endpoints as candidates, ask them, and unload them."""
        for name in self.plan.endpoints:
            self._add(name, name + CANDIDATE)
            self.load(name + CANDIDATE)
        with _CandidateClient(self.client.url, timeout=self.client.timeout) as candidate:
            _ask(candidate, probes)
        for name in self.plan.endpoints:
            self.unload(name + CANDIDATE)

    def take_over(self, probes: Sequence[Probe]) -> None:
        """Load the new endpoints under their own names."""
        for name in self.plan.endpoints:
            folder = self.plan.live / name
            folder.mkdir(exist_ok=True)
            candidate = self.plan.live / (name + CANDIDATE)
            if not (folder / "config.pbtxt").is_file():
                shutil.copyfile(self.plan.new / name / "config.pbtxt", folder / "config.pbtxt")
            os.replace(candidate / str(self.plan.version), folder / str(self.plan.version))
            self.load(name)
        _ask(self.client, probes)

    def undo(self) -> None:
        """Take out whatever was added; the old version answers on."""
        added = [(name + CANDIDATE, self.unload) for name in self.plan.endpoints]
        added += [(name, self._withdraw) for name in (*self.plan.endpoints, *self.plan.graphs)]
        for name, take_out in added:
            if (self.plan.live / name / str(self.plan.version)).is_dir():
                try:
                    take_out(name)
                except ReleaseError as error:  # the next ones matter as much
                    _logger.error("while taking version %d back: %s", self.plan.version, error)
        self.clean()

    def _withdraw(self, name: str) -> None:
        folder = self.plan.live / name
        shutil.rmtree(folder / str(self.plan.version))
        if versions(folder):
            self.load(name)
        else:
            self.unload(name)
            shutil.rmtree(folder)

    def clean(self) -> None:
        """Remove what a release needs on its way, also one that was killed."""
        for path in self.plan.live.glob(f"*{CANDIDATE}"):
            shutil.rmtree(path)
        for path in self.plan.live.glob("*/copying-*"):
            shutil.rmtree(path)

    def forget(self) -> None:
        """Remove versions that are too old to go back to; they are not loaded any more."""
        for name in (*self.plan.endpoints, *self.plan.graphs):
            for version in versions(self.plan.live / name)[:-KEPT]:
                shutil.rmtree(self.plan.live / name / str(version))


def _ask(client: Client, probes: Sequence[Probe]) -> None:
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
) -> int:
    """Bring the models of a repository into the one that a server at ``url`` serves.

    Args:
        live: The repository that is served.
        new: The repository with the new models, as `albef.export.repository` writes it.
        probes: Questions that the new version has to answer, besides one an endpoint.
        version: Number of the new version; by default the next.
        timeout: Seconds for an answer.

    Returns:
        The number.

    Raises:
        ReleaseError: If the new version cannot be loaded or fails a probe. It is gone again then.
    """
    plan = _plan(live, new, version)
    asked = [*standard(plan.endpoints), *(probe for probe in probes if probe.endpoint in plan.endpoints)]
    with Client(url, timeout=timeout) as client:
        switch = _Switch(plan, client)
        switch.clean()
        try:
            switch.add_graphs()
            switch.try_out(asked)
            switch.take_over(asked)
        except BaseException:
            switch.undo()
            raise
        switch.clean()
        switch.forget()
    return plan.version


def rollback(live: Path, url: str, timeout: float = 120.0) -> int:
    """Go back to the version before the newest, which is kept under another name; its number is not used again.

    Returns:
        The version that answers now.

    Raises:
        ReleaseError: If there is none to go back to, or it does not answer.
    """
    names = models(live)
    endpoints = [name for name in names if name in protocol.ENDPOINTS]
    newest = max((number for name in endpoints for number in versions(live / name)), default=0)
    affected = [name for name in names if newest in versions(live / name)]
    before = sorted({number for name in affected for number in versions(live / name)} - {newest})
    if not before or any(before[-1] not in versions(live / name) for name in affected):
        raise ReleaseError(f"{live}: no version to go back to from {newest}")
    with Client(url, timeout=timeout) as client:
        switch = _Switch(_Plan(live, live, newest, [], []), client)
        # Endpoints first: as long as one of them is loaded, its graphs are.
        for name in sorted(affected, key=lambda name: name not in endpoints):
            os.replace(live / name / str(newest), live / name / f"{WITHDRAWN}{newest}")
            switch.load(name)
        _ask(client, standard([name for name in endpoints if name in affected]))
    return before[-1]


def read_probes(path: Path) -> list[Probe]:
    """Probes from a JSON list, see `Probe`; pictures lie relative to it.

    Raises:
        ReleaseError: If it is not such a list; the message names the entry.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{path}: cannot read the probes ({error})") from error
    if not isinstance(rows, list):
        raise ReleaseError(f"{path}: expected a list of probes")
    found = []
    for number, row in enumerate(rows):
        try:
            found.append(Probe.of(row, path.parent))
        except (TypeError, ValueError) as error:
            raise ReleaseError(f"{path}, entry {number}: {error}") from error
    return found
