from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from albef.serving import runtime as setup
from albef.serving.runtime import INFRA, RuntimeSetupError, ensure, find_uv, inputs_hash, inspect, load
from tests import ROOT
from tests.errors import refuses


@pytest.fixture
def infra(tmp_path) -> Path:
    shutil.copytree(INFRA, tmp_path / "infra")
    return tmp_path / "infra"


def pins(path: Path) -> dict[str, str]:
    lines = [line.split(";")[0].strip() for line in path.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines if "==" in line)


def test_pins_are_those_of_the_main_environment():
    own, others = pins(INFRA / "requirements.txt"), pins(ROOT / "constraints.txt")
    assert own.pop("numpy").startswith("1.26.")
    for name in ("onnxruntime", "tokenizers", "pillow", "faiss-cpu"):
        assert name in own
    assert {name: version for name, version in own.items() if others.get(name, version) != version} == {}


def interpreter():
    return setup.find_python()


def test_hash_covers_every_input(infra):
    before = inputs_hash(infra, interpreter())
    assert before == inputs_hash(infra, interpreter())
    for path in (infra / "requirements.txt", infra / "server.txt"):
        path.write_text(path.read_text() + "# changed\n")
        after = inputs_hash(infra, interpreter())
        assert after != before
        before = after


def test_missing_recipe_is_named(infra):
    (infra / "server.txt").unlink()
    with refuses(RuntimeSetupError, "server.txt"):
        inputs_hash(infra, interpreter())


def test_missing_uv_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("UV", raising=False)
    with refuses(RuntimeSetupError, "UV=/nowhere/uv"):
        find_uv("/nowhere/uv")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with refuses(RuntimeSetupError, "uv", "--uv"):
        find_uv()


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def python(path: Path, version: str, libraries: str) -> Path:
    """Write a script that replies like a Python of another version or build."""
    answer = (
        f'{{"version": [{version}], "executable": "{path}", "prefix": "{libraries}", '
        f'"libdir": "{libraries}", "multiarch": "", "libpl": ""}}'
    )
    return script(path, f"echo '{answer}'")


def test_python_needs_a_version_with_numpy_1_and_a_shared_library(tmp_path):
    library = tmp_path / "libpython3.12.so.1.0"
    candidate = python(tmp_path / "python", "3, 12, 1", str(tmp_path))
    assert inspect(str(candidate)) is None  # static
    library.touch()
    found = inspect(str(candidate))
    assert found is not None
    assert (found.version, found.library) == ((3, 12, 1), str(library))
    (tmp_path / "libpython3.13.so.1.0").touch()
    assert inspect(str(python(tmp_path / "newer", "3, 13, 0", str(tmp_path)))) is None
    assert inspect(str(script(tmp_path / "broken", "exit 127"))) is None
    assert inspect(str(tmp_path / "absent")) is None


def test_no_python_for_the_stub_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(python(tmp_path / "python", "3, 13, 0", str(tmp_path))))
    uv = script(tmp_path / "uv", "exit 2")  # knows of no Python, and cannot fetch one
    with refuses(RuntimeSetupError, "3.11", "3.12", "Debian"):
        setup.find_python(str(uv))


def test_another_python_that_uv_knows_is_taken(tmp_path, monkeypatch):
    (tmp_path / "libpython3.11.so.1.0").touch()
    monkeypatch.setattr(sys, "executable", str(python(tmp_path / "own", "3, 13, 0", str(tmp_path))))
    other = python(tmp_path / "other", "3, 11, 9", str(tmp_path))
    uv = script(tmp_path / "uv", f'case "$*" in *3.11) echo {other};; *) exit 2;; esac')
    assert setup.find_python(str(uv)).executable == str(other)


def test_nothing_built_is_explained(tmp_path):
    with refuses(RuntimeSetupError, tmp_path):
        load(tmp_path)


def test_environment_holds_the_stub_alone(runtime, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("VIRTUAL_ENV", "/somewhere")
    environment = runtime.environment()
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & set(environment)
    assert environment["PATH"].split(os.pathsep)[0] == str(runtime.root / "stub" / "bin")
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    code = "import numpy, onnxruntime, faiss, tokenizers, PIL; print(numpy.__version__)"
    done = subprocess.run(["python3", "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1.26.")


def inode(root: Path) -> int:
    return (root / "triton").stat().st_ino


def test_build_is_idempotent_and_follows_its_inputs(tmp_path, infra):
    root = tmp_path / "runtime"
    (root / "building-killed").mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:  # two at once build once
        first, second = pool.map(lambda _: ensure(root, infra), range(2))
    assert first == second
    built = inode(root)
    assert first.server.is_file()
    assert os.access(first.backends / "python" / "triton_python_backend_stub", os.X_OK)
    assert sorted(path.name for path in root.iterdir()) == ["lock", "triton"]
    ensure(root, infra)
    assert inode(root) == built
    backend = infra / "backends" / "onnxruntime" / "model.py"
    backend.write_text(backend.read_text() + "# changed\n")
    ensure(root, infra)
    assert inode(root) == built
    assert (first.backends / "onnxruntime" / "model.py").read_text().endswith("# changed\n")
    good = (infra / "requirements.txt").read_text()
    (infra / "requirements.txt").write_text(good.replace("idna==", "idna==999."))
    with refuses(RuntimeSetupError, "idna"):
        ensure(root, infra)
    assert inode(root) == built  # the old one still serves
    assert sorted(path.name for path in root.iterdir()) == ["lock", "triton"]
    (infra / "requirements.txt").write_text(good + "# a comment\n")
    ensure(root, infra)
    assert inode(root) != built


def test_command_builds_and_reports(runtime, capsys, tmp_path):
    assert setup.main([]) == 0
    assert capsys.readouterr().out.strip() == str(runtime.root)
    assert setup.main(["--uv", "/nowhere/uv", "--root", str(tmp_path)]) == 1
    assert "UV=/nowhere/uv: no such program" in capsys.readouterr().err
