"""Local Triton runtime: NVIDIA's server binary without Docker, installed in ``.runtime/``.

Run ``python -m albef.serving.runtime`` to build it. The server comes from the wheel of nvidia-pytriton, installed
without its Python dependencies, which pin an old NumPy. Its Python backend starts one stub process per model instance.
The stub needs its own environment with NumPy 1, and a shared libpython. The backend in
``infra/triton/backends/onnxruntime`` replaces the C++ one, which is not available as a wheel.

Building is idempotent: a marker file stores a hash of all inputs, and the folder is built aside and then renamed.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from albef.io import write_file

CHECKOUT = Path(__file__).resolve().parents[2]
INFRA = CHECKOUT / "infra" / "triton"
DEFAULT = CHECKOUT / ".runtime"
PYTHONS = ((3, 12), (3, 11))
"""Versions with a stub in the wheel and a wheel of NumPy 1; uv installs the first if none is found."""
_BUILT = "triton"
_MARKER = "inputs"
_RECIPE = 1
"""Increment it when `_build` produces a different result from the same inputs."""
_PROBE = """
import json, sys, sysconfig
get = sysconfig.get_config_var
print(json.dumps({"version": list(sys.version_info[:3]), "executable": sys._base_executable, "prefix": sys.base_prefix,
                  "libdir": get("LIBDIR") or "", "multiarch": get("MULTIARCH") or "", "libpl": get("LIBPL") or ""}))
"""


class RuntimeSetupError(ValueError):
    """The local Triton runtime is missing or cannot be built."""


@dataclass(frozen=True)
class Interpreter:
    """Python interpreter that can run the stub; ``library`` is its shared libpython."""

    executable: str
    version: tuple[int, int, int]
    library: str


@dataclass(frozen=True)
class Runtime:
    """Built runtime in the folder ``root``.

    Args:
        gpu_metrics: Measure GPUs for Prometheus.
    """

    root: Path
    gpu_metrics: bool = False

    @property
    def package(self) -> Path:
        """Folder of the unpacked wheel."""
        return self.root / "wheel"

    @property
    def server(self) -> Path:
        """Path of the tritonserver binary."""
        return self.package / "pytriton" / "tritonserver" / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        """Folder of the backends."""
        return self.package / "pytriton" / "tritonserver" / "backends"

    @property
    def caches(self) -> Path:
        """Folder of the response caches."""
        return self.package / "pytriton" / "tritonserver" / "caches"

    def environment(self) -> dict[str, str]:
        """Return the environment variables of the server.

        The embedded interpreter finds the stub's environment only through ``python3`` on PATH. ``lib`` contains
        nothing but the libpython of the stub, so that neither another Python nor other libraries are loaded.
        """
        env = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}
        env["PATH"] = f"{self.root / 'stub' / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
        env["LD_LIBRARY_PATH"] = os.pathsep.join([str(self.root / "lib"), str(self.package / "nvidia_pytriton.libs")])
        # There are many stubs, so each gets one OpenMP thread; ONNX Runtime's threads are set per model.
        env.update(ORT_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1", OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
        return env


@dataclass(frozen=True)
class ContainerRuntime(Runtime):
    """Server of NVIDIA's container image; ``root`` is its folder."""

    gpu_metrics: bool = True

    @property
    def server(self) -> Path:
        """Path of the tritonserver binary."""
        return self.root / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        """Folder of the backends."""
        return self.root / "backends"

    @property
    def caches(self) -> Path:
        """Folder of the response caches."""
        return self.root / "caches"

    def environment(self) -> dict[str, str]:
        """Return the environment variables of the server, those of the image."""
        return {**os.environ, "OMP_NUM_THREADS": "1"}


def find_uv(path: str | None = None) -> str:
    """Return the path of uv.

    Candidates are the argument, the variable UV, the folder of this Python, and PATH.

    Raises:
        RuntimeSetupError: If there is none.
    """
    path = path or os.environ.get("UV") or None
    for candidate in (path, str(Path(sys.executable).parent / "uv"), "uv"):
        program = shutil.which(candidate) if candidate else None
        if program:
            return program
        if candidate and candidate == path:
            raise RuntimeSetupError(f"UV={path}: no such program; set --uv or the variable UV to the path of uv")
    raise RuntimeSetupError("uv is not installed; run `pip install uv` or pass its path with --uv")


def inspect(executable: str) -> Interpreter | None:
    """Inspect a Python; return None if it cannot run the stub.

    The stub needs a version in `PYTHONS` with a shared libpython.
    """
    try:
        done = subprocess.run([executable, "-c", _PROBE], capture_output=True, text=True, check=True, timeout=60)
        info = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, json.JSONDecodeError):
        return None
    major, minor, micro = info["version"]
    if (major, minor) not in PYTHONS:
        return None
    folders = [info["libdir"], f"{info['libdir']}/{info['multiarch']}", f"{info['prefix']}/lib", info["libpl"]]
    for folder in folders:
        library = Path(folder) / f"libpython{major}.{minor}.so.1.0"
        if folder and library.is_file():
            return Interpreter(info["executable"], (major, minor, micro), str(library))
    return None


def find_python(uv: str | None = None, download: bool = True) -> Interpreter:
    """Find a Python for the stub.

    Candidates are this Python, those found by uv, and with ``download`` one installed by uv.

    Raises:
        RuntimeSetupError: If there is none; the message lists what to install.
    """
    versions = [f"{major}.{minor}" for major, minor in PYTHONS]

    def installed(uv: str) -> Iterator[str]:
        for version in versions:
            for preference in ("--no-managed-python", "--managed-python"):
                done = subprocess.run(
                    [uv, "python", "find", "--no-project", "--system", "--no-python-downloads", preference, version],
                    capture_output=True,
                    text=True,
                )
                if done.returncode == 0:
                    yield done.stdout.strip()

    current = inspect(sys.executable)
    if current:
        return current
    uv = find_uv(uv)
    for attempt in range(2):
        for executable in installed(uv):
            interpreter = inspect(executable)
            if interpreter:
                return interpreter
        if attempt or not download:
            break
        if subprocess.run([uv, "python", "install", versions[0]], stdout=sys.stderr).returncode:
            break
    raise RuntimeSetupError(
        f"the Triton runtime needs Python {' or '.join(reversed(versions))} with a shared libpython "
        f"(libpython{versions[0]}.so.1.0 or libpython{versions[1]}.so.1.0), and none was found; this Python is "
        f"{sys.version.split()[0]} at {sys.executable}. On Debian install libpython3.11, with pyenv set "
        f"PYTHON_CONFIGURE_OPTS=--enable-shared, or with network access run `uv python install {versions[0]}`"
    )


def inputs_hash(infra: Path, interpreter: Interpreter) -> str:
    """Return the hash of all inputs of a runtime.

    Our backends are not among them: `ensure` updates their files one by one.

    Raises:
        RuntimeSetupError: If the requirement files are missing.
    """
    digest = hashlib.sha256(json.dumps([_RECIPE, asdict(interpreter)], sort_keys=True).encode())
    for path in (infra / "requirements.txt", infra / "server.txt"):
        try:
            digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
        except OSError as error:
            raise RuntimeSetupError(f"{path}: cannot read these requirements ({error.strerror})") from error
    return digest.hexdigest()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeSetupError(f"`{' '.join(command)}` failed with status {done.returncode}:\n{done.stdout.strip()}")


def _build(target: Path, infra: Path, interpreter: Interpreter, uv: str) -> None:
    stub, wheel = target / "stub", target / "wheel"
    install = [uv, "pip", "install", "--quiet", "--only-binary", ":all:", "--link-mode", "copy"]
    _run([uv, "venv", "--quiet", "--no-project", "--python", interpreter.executable, str(stub)])
    _run([*install, "--python", str(stub / "bin" / "python"), "-r", str(infra / "requirements.txt")])
    # --python only selects the version; the wheel is py3-none.
    python = ["--python", str(stub / "bin" / "python")]
    _run([*install, *python, "--no-deps", "--target", str(wheel), "-r", str(infra / "server.txt")])
    server = wheel / "pytriton" / "tritonserver"
    version = f"{interpreter.version[0]}.{interpreter.version[1]}"
    source = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not source.is_file():
        raise RuntimeSetupError(f"{infra / 'server.txt'}: the wheel of this release has no stub for Python {version}")
    program = server / "backends" / "python" / source.name
    shutil.copyfile(source, program)
    program.chmod(0o755)
    (server / "bin" / "tritonserver").chmod(0o755)
    (target / "lib").mkdir()
    (target / "lib" / Path(interpreter.library).name).symlink_to(interpreter.library)


def _copy_backends(infra: Path, runtime: Runtime) -> None:
    """Update our backends, each file atomically because models may be loading."""
    for path in sorted((infra / "backends").rglob("*.py")):
        target = runtime.backends / path.relative_to(infra / "backends")
        if not target.is_file() or target.read_bytes() != path.read_bytes():
            write_file(target, path.read_bytes())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def load(root: Path = DEFAULT) -> Runtime:
    """Return the runtime built in ``root``.

    Raises:
        RuntimeSetupError: If there is none.
    """
    if not (root / _BUILT / _MARKER).is_file():
        raise RuntimeSetupError(f"{root}: no Triton runtime found; build it with `python -m albef.serving.runtime`")
    return Runtime((root / _BUILT).resolve())


def ensure(root: Path = DEFAULT, infra: Path = INFRA, uv: str | None = None) -> Runtime:
    """Build the runtime in ``root`` unless it is up to date.

    In NVIDIA's container, the server of the image is returned.

    Concurrent calls from several processes are safe.

    Raises:
        RuntimeSetupError: If uv, a usable Python or a package is missing.
    """
    if root == DEFAULT and not infra.is_dir() and (server := shutil.which("tritonserver")):  # there is no checkout
        return ContainerRuntime(Path(server).parents[1])
    with _locked(root / "lock"):
        built = root / _BUILT
        interpreter = find_python(uv)
        expected = inputs_hash(infra, interpreter)
        marker = built / _MARKER
        if marker.is_file() and marker.read_text(encoding="utf-8").strip() == expected:
            runtime = load(root)
            _copy_backends(infra, runtime)
            return runtime
        for leftover in root.glob("building-*"):  # of a killed build
            shutil.rmtree(leftover, ignore_errors=True)
        aside = Path(tempfile.mkdtemp(dir=root, prefix="building-"))
        try:
            _build(aside / _BUILT, infra, interpreter, find_uv(uv))
            _copy_backends(infra, Runtime(aside / _BUILT))
            (aside / _BUILT / _MARKER).write_text(expected + "\n", encoding="utf-8")
            if built.exists():
                built.rename(aside / "old")
            (aside / _BUILT).rename(built)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return load(root)


def main(arguments: list[str] | None = None) -> int:
    """Build the runtime; used by ``make runtime``."""
    parser = argparse.ArgumentParser(prog="python -m albef.serving.runtime", description="Build the Triton runtime.")
    parser.add_argument("--root", type=Path, default=DEFAULT, help="folder to build it in (default: %(default)s)")
    parser.add_argument("--uv", help="path of uv; by default the variable UV, or uv on PATH")
    args = parser.parse_args(arguments)
    try:
        runtime = ensure(args.root, uv=args.uv)
    except (RuntimeSetupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(runtime.root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
