"""Tests of the command line as a whole."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from albef import cli, doctor


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == f"albef {metadata.version('albef')}"


def test_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "albef", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("albef ")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["pretrian"], "pretrain"),
        (["ask", "retreival", "a dog"], "retrieval"),
        (["index", "biuld", "--repository", "r"], "build"),
        (["index", "build", "--repository", "r", "--dtype", "flaot16"], "float16"),
    ],
)
def test_a_misspelled_choice_is_suggested(words: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert capsys.readouterr().err.rstrip().endswith(f"did you mean {meant!r}?")


def test_nothing_is_suggested_for_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["xyz"])
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_subcommands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "pretrain" in script
    assert "grounding" in script


def test_doctor_finds_no_problem_in_the_test_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    assert "problem" not in capsys.readouterr().out


def test_doctor_names_what_to_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", "--params", str(tmp_path / "none.yaml")])
    assert end.value.code == 1
    assert str(tmp_path / "none.yaml") in capsys.readouterr().out


def test_packages_that_are_missing_or_too_old() -> None:
    found = list(
        doctor.packages(["numpy<1", "torch", 'no-such-package>=2; extra == "serving"', 'uvloop; extra == "x"'])
    )
    wrong = {finding.subject: finding for finding in found if finding.mend is not None}
    assert set(wrong) == {"packages of albef", "packages of albef[serving]", "packages of albef[x]"}
    assert "numpy" in wrong["packages of albef"].text
    assert "albef[serving]" in str(wrong["packages of albef[serving]"].mend)
