"""Tests of names and links in the documentation."""

from __future__ import annotations

import importlib
import re
import shlex
import textwrap
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from albef import cli
from albef import config as configuration
from albef.config import Config, from_dict
from albef.data.schema import LISTS
from albef.datasets import photo_folder
from albef.weights import convert
from tests import ROOT
from tests.docs import PAGES, blocks, execute, python_blocks
from tests.worlds import write_tables


def commands(page: Path) -> list[list[str]]:
    """Words of each command line in a page's shell blocks."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


EVERY = [pytest.param(words, id=f"{page.name}: {' '.join(words)}") for page in PAGES for words in commands(page)]


@pytest.mark.parametrize("words", EVERY)
def test_a_command_exists(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = words
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        for target in (word for word in arguments if "=" not in word):
            assert target in targets
    elif program == ".venv/bin/albef":
        cli.parser().parse_args(arguments)
    elif program.startswith(".venv/bin/"):
        assert program.removeprefix(".venv/bin/") in ("dvc", "prefect", "pre-commit", "python", "uv")
    else:
        assert program in ("git", "cp", "curl", "printf", "openssl", "export", "docker", "kubectl", "aws")
        for word in arguments:  # files of ours that other programs are given
            if word.startswith("infra/"):
                assert (ROOT / word).exists(), word


@pytest.mark.parametrize("code", python_blocks("api"))
def test_an_example_runs(code: str, stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").symlink_to(stages / "params.yaml")
    (tmp_path / "artifacts/exported/images/test").mkdir(parents=True)
    write_tables(stages / "artifacts", tmp_path / "artifacts/data")
    for name in ("finetune", "pretrain", "tokenizer"):
        (tmp_path / "artifacts" / name).symlink_to(stages / "artifacts" / name)
    for number in range(100):
        image = stages / "artifacts" / "images" / f"{number % 16}.png"
        (tmp_path / f"artifacts/exported/images/test/{number:06}.png").symlink_to(image)
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/beach.png").symlink_to(stages / "artifacts/images/0.png")
    convert.export_official(stages / "artifacts/finetune/retrieval", tmp_path / "retrieval.pth")
    monkeypatch.chdir(tmp_path)
    execute(code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).is_file(), target


def test_quoted_paths_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"`((?:albef|flows|infra|samples|tests)/[\w./-]+)`", page.read_text()):
            if "TASK" not in name:
                assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_quoted_parameters_exist() -> None:
    every = configuration.to_dict(configuration.load(ROOT / "params.yaml"))
    sections = {name: section for name, section in every.items() if section is not None}
    for page in PAGES:
        for key in re.findall(rf"`((?:{'|'.join(sections)})\.[a-z_.]+)", page.read_text()):
            if key.endswith((".json", ".pth", ".py", ".yaml")):
                continue
            section = sections
            for part in key.rstrip(".").split("."):
                known = part in section or key.startswith(("tokenizer.source", "prepare.lists", "prepare.pairs"))
                assert known, f"{page.name}: {key}"
                section = section.get(part) or {}


def test_the_examples_of_own_data_are_valid() -> None:
    sources = []
    for page in ("data", "streaming"):
        for block in blocks(ROOT / f"docs/{page}.md", "yaml"):
            params = YAML(typ="safe").load(ROOT / "params.yaml")
            for section, values in YAML(typ="safe").load(textwrap.dedent(block)).items():
                params[section] |= values
            config = from_dict(params, Config)
            config.prepare.check()
            sources.append(config.prepare.source)
            if config.prepare.lists is not None:
                assert set(config.prepare.lists.files) <= set(LISTS)
    assert {"pairs", "lists", "stream"} <= set(sources)


def test_the_example_of_captions_is_read(tmp_path: Path) -> None:
    table = next(block for block in blocks(ROOT / "docs/data.md", "") if block.startswith("file_name"))
    (tmp_path / "metadata.csv").write_text(table)
    assert [row["image"] for row in photo_folder.rows(tmp_path)] == ["beach.jpg", "2024/harbor at night.jpg"]


def test_the_documented_columns_are_found() -> None:
    text = (ROOT / "docs/data.md").read_text()
    for sentence, usual in zip(
        re.search(r"by name \((.*?); (.*?), in any case\)", text, re.DOTALL).groups(),  # type: ignore[union-attr]
        (photo_folder.FILE_COLUMNS, photo_folder.CAPTION_COLUMNS),
        strict=True,
    ):
        assert set(re.findall(r"`(\w+)`", sentence)) <= set(usual)


def test_every_list_is_documented() -> None:
    text = (ROOT / "docs/data.md").read_text()
    for name in LISTS:
        assert f"`{name}`" in text, name


def test_deployments_are_documented() -> None:
    deployments = YAML(typ="safe").load(ROOT / "infra/prefect.yaml")["deployments"]
    text = (ROOT / "README.md").read_text()
    for deployment in deployments:
        path, _, function = deployment["entrypoint"].partition(":")
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert f"`{getattr(module, function).name}/{deployment['name']}`" in text


def test_make_silences_every_dependency_the_command_line_does() -> None:
    exported = dict(re.findall(r"^export (\w+) \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {name: exported.get(name) for name in cli._QUIET} == cli._QUIET


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE).group(1).split())  # type: ignore[union-attr]
    assert phony - {"git", "runtime"} == set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))


def test_the_parameters_of_the_ablation_are_the_demos_with_its_changes() -> None:
    ours, demo = (
        configuration.to_dict(configuration.load(ROOT / name)) for name in ("docs/ablation/params.yaml", "params.yaml")
    )
    demo["prepare"]["emoji"] |= {"pretrain": 8000, "train": 3000, "caption_noise": 0.35}
    demo["pretrain"]["alpha_ramp_epochs"] = 1.0
    assert ours == demo
