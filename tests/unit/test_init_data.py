"""Tests of `albef init-data`: the parameters that it writes, what it says, and what it refuses."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from albef import cli, init_data
from albef import config as configuration
from albef.config import Config, PairsConfig
from albef.presets import content
from tests import ROOT
from tests.photos import csv_text, photo, sample, write_parquet, write_photos, write_tar


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """The demo's parameters."""
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    return tmp_path / "params.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of 60 photos with a CSV."""
    folder = write_photos(tmp_path / "photos")
    (folder / "metadata.csv").write_text(csv_text())
    return folder


def test_parameters_for_a_folder(params: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init-data", str(folder), "--params", str(params)]) == 0
    config = configuration.load(params)
    assert config.prepare.source == "pairs"
    assert config.prepare.pairs == PairsConfig(path=str(folder), val=0.1, test=0.1)
    assert config.prepare.max_side is not None
    assert config.prepare.max_side > config.model.image_size
    assert (config.validate.on_bad_record, config.tune.tasks) == ("quarantine", [])
    assert list(YAML(typ="safe").load(params)["tasks"]) == ["retrieval"]
    for section in (config.pretrain, config.text_assignment, config.tasks.retrieval.train):
        assert section.batch_size * 2 <= 44  # two batches of the images for training
    assert "# pretrained encoders to start pretraining from" in params.read_text()  # comments stay
    printed = capsys.readouterr().out
    for part in (
        str(params),
        str(folder),
        "60 in metadata.csv",
        "44 train, 8 val, 8 test",
        f"{config.pretrain.epochs} epochs in batches of {config.pretrain.batch_size}",
        "vqa, entailment, nlvr2, grounding",
    ):
        assert part in printed
    commands = re.findall(r"^  \.venv/bin/albef (.*)$", printed, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        cli.parser().parse_args(re.findall(r'"[^"]*"|\S+', command))


def test_a_second_run_writes_the_same(params: Path, folder: Path) -> None:
    arguments = ["init-data", str(folder), "--params", str(params)]
    assert cli.main(arguments) == 0
    first = params.read_text()
    assert cli.main(arguments) == 0
    assert params.read_text() == first


def test_the_parameter_file_may_be_another(params: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    before = params.read_text()
    out = folder.parent / "new" / "own.yaml"
    assert cli.main(["init-data", "photos", "--params", "params.yaml", "--out", str(out)]) == 0
    assert params.read_text() == before
    found = configuration.load(out).prepare.pairs
    assert found is not None
    assert found.path == str(folder)  # valid wherever the pipeline runs


@pytest.mark.parametrize("preset", ["paper-4m", "paper-14m"])
def test_a_preset_may_be_the_start(folder: Path, tmp_path: Path, preset: str) -> None:
    (tmp_path / "preset.yaml").write_text(content(preset))
    assert cli.main(["init-data", str(folder), "--params", str(tmp_path / "preset.yaml")]) == 0
    assert configuration.load(tmp_path / "preset.yaml").prepare.source == "pairs"


def test_tar_and_parquet_files_are_counted(params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "tars" / "0.tar", map(sample, range(30)))
    write_tar(tmp_path / "tars" / "1.tar", map(sample, range(30, 60)), 30)
    assert cli.main(["init-data", str(tmp_path / "tars" / "*.tar"), "--params", str(params)]) == 0
    assert "60 in 2 .tar files" in capsys.readouterr().out
    write_parquet(tmp_path / "a.parquet", caption="words", failed=[3])
    arguments = ["init-data", str(tmp_path / "a.parquet"), "--params", str(params), "--caption", "words"]
    assert cli.main(arguments) == 0
    assert "60 in 1 .parquet file\n" in capsys.readouterr().out
    found = configuration.load(params).prepare.pairs
    assert found is not None
    assert (found.caption, found.image) == ("words", None)


def test_more_images_than_are_counted(
    params: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(init_data, "_COUNTED", 50)
    assert cli.main(["init-data", str(folder), "--params", str(params)]) == 0
    assert "more than 50 in metadata.csv" in capsys.readouterr().out
    assert configuration.load(params).pretrain.epochs == 1


def test_a_data_set_of_the_hub(params: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init-data", f"hub:{folder}", "--params", str(params)]) == 0
    assert "unknown" in capsys.readouterr().out
    found = configuration.load(params).prepare.pairs
    assert found is not None
    assert found.path == f"hub:{folder}"


def test_long_captions_are_allowed(params: Path, folder: Path) -> None:
    (folder / "metadata.csv").write_text(csv_text() + "000.jpg," + "word " * 99 + "\n")
    assert cli.main(["init-data", str(folder), "--params", str(params)]) == 0
    assert configuration.load(params).validate.max_caption_words == 99


@settings(max_examples=50)
@given(train=st.integers(4, 100_000), each=st.integers(1, 5))
def test_the_sizes_fit(train: int, each: int) -> None:
    data = YAML(typ="safe").load(ROOT / "params.yaml")
    splits = {"train": train, "val": 5, "test": 5}
    found = init_data.Found(each * (train + 10), splits, words=9, missing=0, whole=True)
    init_data._fill(data, PairsConfig(path="photos"), found)
    config = configuration.from_dict(data, Config)
    for section, rows, steps in (
        (config.pretrain, train, 600),
        (config.tasks.retrieval.train, train * each, 200),
    ):
        assert section.batch_size * 2 <= rows
        epoch = rows // section.batch_size
        assert section.epochs == 1 if epoch > steps else abs(section.epochs * epoch - steps) <= epoch / 2
        assert 1 <= section.optim.warmup_steps < section.epochs * epoch
        assert 1 <= section.log_every <= section.epochs * epoch


def few(folder: Path) -> None:
    (folder / "metadata.csv").write_text(csv_text(3))


def missing(folder: Path) -> None:
    (folder / "metadata.csv").write_text(csv_text(120))


def unnamed(folder: Path) -> None:
    (folder / "metadata.csv").write_text(csv_text().replace("00", ""))


def heic(folder: Path) -> None:
    for path in folder.glob("*.jpg"):
        path.rename(path.with_suffix(".HEIC"))
    (folder / "metadata.csv").write_text(csv_text().replace(".jpg", ".HEIC"))


def headless(folder: Path) -> None:
    (folder / "metadata.csv").write_text(csv_text(header="a,b"))


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def gone(folder: Path) -> None:
    folder.rename(folder.with_name("other"))


def is_file(folder: Path) -> None:
    gone(folder)
    folder.write_bytes(photo(0))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (few, ["3 images with captions", "too few, add images"]),
        (missing, ["60 of 120 images", "060.jpg", "missing"]),
        (heic, ["60 of 60 images are .heic files", ".jpg", "convert"]),
        (headless, ["metadata.csv", "found a, b", "--image"]),
        (empty, ["no captions", "metadata.csv", "a text file beside each image"]),
        (gone, ["found nothing", "expected a folder of images"]),
        (is_file, ["found photos", "expected a folder of images"]),
        (unnamed, ["are missing", "paths below this folder"]),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_in_one_sentence(
    params: Path, folder: Path, capsys: pytest.CaptureFixture[str], change: object, expected: list[str]
) -> None:
    assert callable(change)
    change(folder)
    _refused(["init-data", str(folder), "--params", str(params)], [str(folder), *expected], params, capsys)


def test_a_missing_data_set_of_the_hub(
    params: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _refused(
        ["init-data", "hub:nobody/none", "--params", str(params)], ["hub:nobody/none", "split train"], params, capsys
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ["cannot read the parameter file"]),
        ("a: [\n", ["not valid YAML"]),
        ("", ["expected a mapping"]),
        ("prepare: {seed: 1}\n", ["prepare.source", "missing key"]),
        ("no retrieval", ["tasks.retrieval", "start from another file"]),
    ],
)
def test_a_bad_parameter_file_is_named(
    params: Path, folder: Path, capsys: pytest.CaptureFixture[str], text: str | None, expected: list[str]
) -> None:
    if text == "no retrieval":
        data = YAML().load(params)
        del data["tasks"]["retrieval"]
        YAML().dump(data, params)
    elif text is None:
        params.unlink()
    else:
        params.write_text(text)
    _refused(["init-data", str(folder), "--params", str(params)], [str(params), *expected], params, capsys)


@pytest.mark.parametrize("place", ["folder", "file/own.yaml"])
def test_a_file_that_cannot_be_written_is_named(
    params: Path, folder: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (folder.parent / "folder").mkdir()
    (folder.parent / "file").touch()
    out = str(folder.parent / place)
    _refused(["init-data", str(folder), "--params", str(params), "--out", out], [out, "--out"], params, capsys)


def _refused(arguments: list[str], expected: list[str], params: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = params.read_bytes() if params.exists() else None
    files = sorted(os.listdir(params.parent))
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    message = captured.err.strip()
    assert message.startswith("albef init-data: ")
    assert message.count("\n") == 0 or "YAML" in message  # its parser shows the place
    for part in expected:
        assert part in message
    assert (params.read_bytes() if params.exists() else None) == before
    assert sorted(os.listdir(params.parent)) == files
