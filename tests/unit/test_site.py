"""Tests of the documentation site: its reference, its links, and that it needs no other host."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from albef import cli, presets
from albef.tasks import registry
from infra.docs import pages, parameters, reference
from tests import ROOT


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site in a folder."""
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the site is built from, and the site."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    (folder / "albef").symlink_to(ROOT / "albef")
    pages.write(ROOT, folder / "build/docs")
    done = build(folder)
    assert done.returncode == 0, done.stdout
    return folder


def sections(page: str) -> dict[str, str]:
    """Return the text below each heading of a page."""
    parts = re.split(r"^#+ (.*)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(section: str) -> dict[str, list[str]]:
    """Return the rows of tables by the code in their first cell."""
    lines = [line[2:-2].split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): [cell.strip() for cell in cells[1:]] for cells in lines}


class References(HTMLParser):
    """Addresses that a browser loads with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = ("src", "srcset", "data", "poster") if tag != "link" else ("href",)
        self.found += [value for name, value in attributes if name in names and value]


def test_every_page_is_in_the_site(folder: Path) -> None:
    for page in (folder / "build/docs").rglob("*.md"):
        name = page.relative_to(folder / "build/docs").with_suffix(".html")
        name = name.with_stem("index") if name.stem == "README" else name
        assert (folder / "site" / name).is_file(), name


def test_numbered_lists_stay_whole(folder: Path) -> None:
    """Code between two items ends a list where it is not indented enough."""
    counts = []
    for page in (ROOT / "docs").glob("*.md"):
        starts = re.findall(r"^1\. ", page.read_text(), re.MULTILINE)
        shown = (folder / f"site/docs/{page.stem}.html").read_text().count("<ol")
        assert shown == len(starts), page.name
        counts.append(shown)
    assert sum(counts) > 3


def test_it_needs_no_other_host(folder: Path) -> None:
    texts = {path: path.read_text() for path in (folder / "site").rglob("*") if path.suffix in (".html", ".css")}
    assert len(texts) > 20
    for path, text in texts.items():
        references = References()
        references.feed(text)
        for address in [*references.found, *re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", text)]:
            assert not re.match(r"(https?:)?//", address), f"{path.name}: {address}"
            # Wherever the page of errors is shown, it has addresses from the root.
            if path.suffix == ".html" and path.name != "404.html" and not address.startswith(("data:", "#")):
                assert (path.parent / address.split("#")[0].split("?")[0]).exists(), f"{path.name}: {address}"


def test_the_search_knows_the_reference(folder: Path) -> None:
    text = "".join(path.read_text() for path in (folder / "site").glob("search*"))
    for word in ("mask_probability", "referring expression", "max-loss", "UnsupportedTaskError", "embed_image"):
        assert word in text


def test_a_broken_link_fails_the_build(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns("site", ".cache"))
    (tmp_path / "copy/build/docs/reference/python.md").write_text("# The page that takes longest\n")
    with (tmp_path / "copy/build/docs/docs/limits.md").open("a") as file:
        file.write("\n[a page](nowhere.md), [a heading](data.md#nowhere)\n")
    done = build(tmp_path / "copy")
    assert done.returncode != 0
    assert "2 issues found" in done.stdout


@pytest.mark.parametrize(("name", "listed"), [("docs/new.md", False), ("docs/old.md", True)])
def test_pages_and_navigation_must_fit(tmp_path: Path, name: str, listed: bool) -> None:
    for file in ("params.yaml", "zensical.toml"):
        shutil.copy(ROOT / file, tmp_path)
    known = set(pages.leaves(pages.navigation(ROOT)))
    for page in known if listed else {*known, name}:
        if not page.startswith("reference/"):
            (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / page).write_text("# Page\n")
    if listed:
        text = (tmp_path / "zensical.toml").read_text()
        (tmp_path / "zensical.toml").write_text(text.replace('"docs/data.md"', f'"docs/data.md", "{name}"'))
    with pytest.raises(pages.SiteError, match=re.escape(name)):
        pages.write(tmp_path, tmp_path / "out")


def flat(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.fixture(scope="module")
def keys() -> dict[str, list[str]]:
    """Type, default, presets and meaning of each parameter, by dotted key."""
    found = sections(parameters.page(ROOT / "params.yaml"))
    return {f"{name}.{key}": cells for name, text in found.items() for key, cells in rows(text).items()}


def test_every_parameter_has_its_default(keys: dict[str, list[str]]) -> None:
    yaml = YAML(typ="safe")
    for key, value in flat(yaml.load(ROOT / "params.yaml")):
        shown = yaml.load(keys[key][1].strip("`"))
        assert (shown, type(shown)) == (value, type(value)), key
    for name in ("paper-14m", "finetune-nlvr2"):
        assert {key for key, _ in flat(yaml.load(presets.content(name)))} <= set(keys), name


def test_parameters_tell_what_they_are(keys: dict[str, list[str]]) -> None:
    # In evaluations the text above the table may tell it.
    assert [key for key, cells in keys.items() if not cells[3] and ".evaluate." not in key] == []
    assert keys["pretrain.epochs"] == ["integer of at least 1", "`3`", "`30`", "passes over the training list"]
    assert keys["model.vision.stem"][0] == "`patch` or `conv`"
    assert keys["prepare.pairs.path"][1] == "*required*"
    assert keys["validate.max_hash_distance"][0] == "integer of at least 0 and at most 7 or null"
    assert keys["tasks.vqa.train.share_images"][3].startswith("put texts of one image in the same batch")  # inherited
    assert keys["pretrain.eval_tokens"][3].startswith("tokens that texts are truncated to")  # on a line of its own
    assert keys["release.metrics.vqa"] == ["text", "`accuracy`", "", "an entry of `metrics`"]
    flickr = "`paper-14m-flickr`, `paper-4m-flickr`, `finetune-flickr`"
    assert keys["tasks.retrieval.evaluate.shortlist"][1:3] == ["`64`", f"`256`; `128` in {flickr}"]


def test_every_endpoint_has_its_tensors() -> None:
    found = sections(reference.endpoints())
    for name, signature in registry.endpoints().items():
        listed = rows(found[name])
        for tensor in (*signature.inputs, *signature.outputs):
            shape = json.loads(listed[tensor.name][1].replace("any", "-1"))
            assert (listed[tensor.name][0], tuple(shape)) == (tensor.dtype, tensor.dims)
        assert {name for name, cells in listed.items() if cells[2:] == ["yes"]} == {
            tensor.name for tensor in signature.inputs if tensor.optional
        }
        assert f"`{signature.inputs[0].name}`" in found[name] or "Each row" in found[name]


def parsers(parser: ArgumentParser) -> Iterator[ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for name, each in action.choices.items():
                if name != "deliver":  # deprecated
                    yield from parsers(each)


@pytest.mark.parametrize("parser", parsers(cli.parser()), ids=lambda parser: parser.prog)
def test_every_command_has_its_options(parser: ArgumentParser) -> None:
    listed = " ".join(rows(sections(reference.commands())[parser.prog]))
    help_text = parser.format_help().partition("options:")[2]
    options = set(re.findall(r"^  (?:-\w[^-]*, )?(--[a-z-]+)", help_text, re.MULTILINE)) - {"--help"}
    assert options <= set(re.findall(r"--[a-z-]+", listed))
    arguments = [action for action in parser._get_positional_actions() if not isinstance(action, _SubParsersAction)]
    for action in arguments:
        names = action.choices or [action.metavar or action.dest]
        assert all(str(name) in listed for name in names)
