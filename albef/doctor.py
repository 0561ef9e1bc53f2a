"""``albef doctor``: checks of the machine and the environment, each with the command that mends it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_MIN_DISK, _MIN_SHM, _MIN_MEMORY = 5 * 2**30, 64 * 2**20, 4 * 2**30
"""Bytes that the demo needs: artifacts, requests between server and endpoints, training."""


@dataclass(frozen=True)
class Finding:
    """Result of a check; ``mend`` is the command or advice if there is a problem."""

    subject: str
    text: str
    mend: str | None = None

    def __str__(self) -> str:
        mark = "ok     " if self.mend is None else "problem"
        return f"{mark}  {self.subject}: {self.text}" + ("" if self.mend is None else f"\n         -> {self.mend}")


def add(command: argparse.ArgumentParser) -> None:
    """Add the arguments of ``albef doctor``."""
    command.set_defaults(function=_run)


def _run(args: argparse.Namespace) -> None:
    problems = 0
    for finding in examine(args.params):
        print(finding, flush=True)
        problems += finding.mend is not None
    if problems:
        print(f"{problems} problems")
        raise SystemExit(1)


def examine(params: Path) -> Iterator[Finding]:
    """Check everything that commands need."""
    yield Finding("Python", f"{sys.version.split()[0]} at {sys.executable}")
    yield from packages(metadata.requires("albef") or ())
    yield from _memory()
    yield _device()
    yield _server()
    yield from (_port(name, port, option) for name, port, option in _PORTS)
    yield _parameters(params)


def packages(requirements: Iterable[str]) -> Iterator[Finding]:
    """Check the installed versions of all dependencies."""
    from packaging.requirements import Requirement

    wrong: dict[str, list[str]] = {}
    count = 0
    for requirement in map(Requirement, requirements):
        extra = str(requirement.marker).split('"')[-2] if requirement.marker else ""
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name == "albef":  # the extra with all extras
            continue
        count += 1
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.setdefault(extra, []).append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            text = f"{requirement.name} {version}, expected {requirement.specifier}"
            wrong.setdefault(extra, []).append(text)
    for extra, texts in wrong.items():
        name = f"albef[{extra}]" if extra else "albef"
        yield Finding(f"packages of {name}", ", ".join(texts), f"make setup, or pip install '{name}'")
    if not wrong:
        yield Finding("packages", f"all {count} present")


def _memory() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free
    text = f"{free / 2**30:.0f} GiB free in {Path.cwd()}"
    yield Finding("disk", text, None if free >= _MIN_DISK else "free 5 GiB; `dvc gc --workspace` removes old results")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"{total / 2**30:.0f} GiB, {os.cpu_count()} CPU cores"
    yield Finding("memory", text, None if total >= _MIN_MEMORY else "training the demo needs 4 GiB")
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    advice = "in a container: docker run --shm-size 1g"
    yield Finding("shared memory", f"{shared / 2**20:.0f} MiB free", None if shared >= _MIN_SHM else advice)


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return Finding("GPU", f"{', '.join(names)}, torch {torch.__version__}")
    if shutil.which("nvidia-smi"):
        advice = "install a build of torch for CUDA, or update the driver; `nvidia-smi` shows its version"
        return Finding("GPU", f"there is a driver, but torch {torch.__version__} finds no GPU", advice)
    return Finding("GPU", f"none; torch {torch.__version__} runs on the CPU")


def _server() -> Finding:
    from albef.serving import runtime

    try:
        python = runtime.find_python(download=False)
        root = runtime.load().root
    except runtime.RuntimeSetupError as error:
        return Finding("Triton server", str(error), "make runtime")
    return Finding("Triton server", f"{root}, endpoints run on {python.executable}")


_PORTS = (
    ("HTTP", 8000, "albef serve --http-port"),
    ("gRPC", 8001, "albef serve --grpc-port"),
    ("metrics", 8002, "albef serve --metrics-port"),
)


def _port(name: str, port: int, option: str) -> Finding:
    from albef.serving.server import LOOPBACK, in_use

    text = f"in use; start another server with {option} PORT" if in_use(LOOPBACK, port) else "free"
    return Finding(f"port {port} ({name})", text)


def _parameters(path: Path) -> Finding:
    from albef import config

    try:
        config.load(path)
    except (ValueError, OSError) as error:
        return Finding("parameters", str(error), f"mend {path}, or start in the folder of the project")
    return Finding("parameters", str(path))
