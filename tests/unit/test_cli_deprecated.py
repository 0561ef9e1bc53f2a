"""Tests of deprecated spellings of commands and options."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from albef import cli

INPUTS = ["--lists", "l", "--images", "i", "--tokenizer", "t", "--out", "o"]
WORK_DIR_COMMANDS = {
    "pretrain": ["pretrain", *INPUTS],
    "finetune": ["finetune", "vqa", *INPUTS, "--init", "p"],
    "tune": ["tune", "vqa", *INPUTS, "--init", "p"],
    "report": ["report", "--artifacts", "a", "--images", "i", "--out", "o"],
    "tracking sync": ["tracking", "sync"],
    "deliver": ["deliver"],
}
SERVE = ["serve", "--repository", "r"]


def parse(words: list[str]) -> argparse.Namespace:
    return cli.parser().parse_args(words)


@pytest.mark.parametrize("command", WORK_DIR_COMMANDS)
def test_scratch_is_work_dir(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = WORK_DIR_COMMANDS[command]
    assert parse(words).work_dir == Path("scratch")
    assert parse([*words, "--work-dir", "x"]).work_dir == Path("x")
    assert capsys.readouterr().err == ""
    args = parse([*words, "--scratch", "x"])
    assert args.work_dir == Path("x")
    assert not hasattr(args, "scratch")
    (line,) = capsys.readouterr().err.splitlines()
    assert "--scratch" in line
    assert "--work-dir" in line


def test_sample_share_is_sample_fraction(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(SERVE).sample_fraction == 0.1
    assert parse([*SERVE, "--sample-fraction", "0.5"]).sample_fraction == 0.5
    assert capsys.readouterr().err == ""
    args = parse([*SERVE, "--sample-share", "0.5"])
    assert args.sample_fraction == 0.5
    assert not hasattr(args, "sample_share")
    (line,) = capsys.readouterr().err.splitlines()
    assert "--sample-share" in line
    assert "--sample-fraction" in line


def test_values_of_old_options_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse([*SERVE, "--sample-share", "half"])
    assert caught.value.code == 2
    assert "'half'" in capsys.readouterr().err


def test_deliver_is_tracking_sync(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--work-dir", str(tmp_path), "--tracking-uri", "none"]
    assert cli.main(["tracking", "sync", *options]) == 0
    expected = capsys.readouterr()
    assert expected.err == ""
    assert cli.main(["deliver", *options]) == 0
    old = capsys.readouterr()
    assert old.out == expected.out
    (line,) = old.err.splitlines()
    assert "albef deliver" in line
    assert "albef tracking sync" in line


@pytest.mark.parametrize(
    ("words", "hidden"),
    [
        *((words, "--scratch") for words in WORK_DIR_COMMANDS.values()),
        (SERVE, "--sample-share"),
        ([], "deliver"),
    ],
)
def test_old_spellings_are_hidden_from_help(words: list[str], hidden: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse([*words, "--help"])
    assert caught.value.code == 0
    assert hidden not in capsys.readouterr().out
