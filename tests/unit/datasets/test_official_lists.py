"""Tests of preparing and reading the published data sets in `docs/data.md`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from albef import cli
from albef.data.image_text import PairDataset
from albef.data.images import load_image
from albef.data.lists import Lists, Rows, names_in
from albef.data.schema import images_of
from albef.tasks.classification_data import ClassificationDataset
from albef.tasks.classification_eval import ClassificationSet
from albef.tasks.grounding.evaluate import GroundingSet
from albef.tasks.retrieval.evaluate import RetrievalSet
from albef.tasks.vqa.evaluate import QuestionSet, read_candidates
from albef.tasks.vqa.train import QuestionDataset
from tests import ROOT
from tests.worlds import tiny_config, write_params

RAW = ROOT / "tests/fixtures/datasets"


def documented() -> dict[str, dict[str, Any]]:
    """``files`` and ``folders`` of each data set, from the table of the page."""
    section = (ROOT / "docs/data.md").read_text().partition("## Published data sets")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| `(\{.+?\})` \| (?:`(\{.+?\})` )?\|", section, re.MULTILINE)
    yaml = YAML(typ="safe")
    return {
        name: {"files": yaml.load(files), "folders": yaml.load(folders) if folders else None}
        for name, files, folders in rows
    }


TABLE = documented()


class Prepared:
    """A data set after `albef prepare` and `albef validate`, both run by the command line."""

    def __init__(self, folder: Path, lists: dict[str, Any]) -> None:
        params = json.loads(write_params(tiny_config(), folder / "params.yaml").read_text())
        lists = {"image_root": ".", "moved": {"/old/pictures": "."}, **lists}
        params["prepare"] |= {"source": "lists", "lists": lists}
        (folder / "params.yaml").write_text(json.dumps(params))
        given, self.data = ["--params", str(folder / "params.yaml")], folder / "data"
        self.lists = folder / "validated" / "lists"
        assert cli.main(["prepare", *given, "--raw", str(RAW), "--out", str(self.data)]) == 0
        assert cli.main(["validate", *given, "--data", str(self.data), "--out", str(folder / "validated")]) == 0
        self.tables = Lists(self.lists, self.data)

    def train(self, kind: Callable[..., Any], name: str) -> list[dict[str, Any]]:
        """Samples of a training set."""
        config = tiny_config()
        dataset = kind.of(self.tables[name], config.model, config.pretrain)  # type: ignore[attr-defined]
        return [dataset[0, row] for row in range(len(dataset))]

    def split(self, name: str) -> Rows:
        return self.tables[name]


Prepare = Callable[..., Prepared]


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    return lambda name, **changes: Prepared(tmp_path, TABLE[name] | changes)


def test_the_table_has_them_all() -> None:
    pretraining = {"COCO", "Visual Genome", "SBU", "CC3M", "CC12M"}
    tasks = {"COCO retrieval", "Flickr30K", "VQAv2 and Visual Genome QA", "SNLI-VE", "NLVR2", "RefCOCO+"}
    assert set(TABLE) == pretraining | tasks
    named = {file for row in TABLE.values() for files in row["files"].values() for file in files}
    assert named == {str(p.relative_to(RAW)) for p in RAW.rglob("*") if p.suffix in (".json", ".p")}


def test_pretraining_lists_are_joined(prepare: Prepare) -> None:
    rows = [TABLE[name]["files"]["pretrain"] for name in ("COCO", "Visual Genome", "SBU", "CC3M", "CC12M")]
    files = [file for row in rows for file in row]
    result = prepare("COCO", files={"pretrain": files})
    samples = result.train(PairDataset, "pretrain")
    assert len(samples) == 9
    assert samples[0]["text"] in ("A bowl of broccoli beside bread.", "Lunch in colored boxes.")
    first, second, third = (s["image_id"] for s in samples[2:5])
    assert first == second != third
    records = result.tables["pretrain"]
    assert records[0]["image"] == "coco/train2014/COCO_train2014_000000000009.jpg"
    assert records[8]["image"] == "cc12m/0000000002.jpg"
    names, numbers = records.sources()
    assert names == files
    assert [names[number] for number in numbers] == [
        file for file in files for _ in json.loads((RAW / file).read_text())
    ]


@pytest.mark.parametrize(("name", "captions"), [("COCO retrieval", 2), ("Flickr30K", 1)])
def test_retrieval(prepare: Prepare, name: str, captions: int) -> None:
    result = prepare(name)
    first, second, third = (s["image_id"] for s in result.train(PairDataset, "retrieval_train"))
    assert first == second != third
    val, test = (RetrievalSet.of(result.split(f"retrieval_{part}")) for part in ("val", "test"))
    assert len(val.texts) == captions  # a caption alone is a list of one
    assert test.image_of_text.tolist() == [0] * len(test.texts)
    assert all(load_image(image) for image in [*val.images, *test.images])


def test_vqa(prepare: Prepare) -> None:
    result = prepare("VQAv2 and Visual Genome QA")
    answers = [s["answers"] for s in result.train(QuestionDataset, "vqa_train")]
    assert answers == [{"broccoli": 0.7, "vegetable": 0.3}, {"1": 1.0}, {"bike": 0.5}, {"on desk": 0.5}]
    val, test = (QuestionSet.of(result.split(f"vqa_{part}")) for part in ("val", "test"))
    assert val.people == [["2"] * 9 + ["1"]]
    assert (test.people, test.ids) == ([[], []], [1000, "1001"])
    assert all(load_image(image) for image in [*val.images, *test.images])
    assert read_candidates(result.lists / "answer_list.json")[:2] == ["yes", "no"]


def test_vqa_may_validate_on_a_list_without_answers(prepare: Prepare) -> None:
    name = "VQAv2 and Visual Genome QA"
    files = TABLE[name]["files"] | {"vqa_val": ["vqa_test.json"], "vqa_test": ["vqa_val.json"]}
    val = QuestionSet.of(prepare(name, files=files).split("vqa_val"))
    assert val.people == [[], []]


def test_visual_entailment(prepare: Prepare) -> None:
    result = prepare("SNLI-VE")
    assert [s["label"] for s in result.train(ClassificationDataset, "ve_train")] == [2, 1, 0]
    val, test = (ClassificationSet.of(result.split(f"ve_{part}")) for part in ("val", "test"))
    assert (val.labels.tolist(), test.labels.tolist()) == ([2, 0], [2, 1])
    assert test.names == [("flickr30k/flickr30k-images/1009434119.jpg",)] * 2  # one a number, one a text
    assert all(load_image(image) for images in val.images + test.images for image in images)


def test_nlvr2(prepare: Prepare) -> None:
    result = prepare("NLVR2")
    samples = result.train(ClassificationDataset, "nlvr_train")
    assert [(s["label"], len(s["images"])) for s in samples] == [(1, 2), (0, 2)]
    assert not np.array_equal(*samples[0]["images"])
    val, test = (ClassificationSet.of(result.split(f"nlvr_{part}")) for part in ("val", "test"))
    assert (val.labels.tolist(), test.labels.tolist()) == ([1, 0], [1, 0])
    assert all(load_image(image) for images in val.images + test.images for image in images)


def test_grounding(prepare: Prepare) -> None:
    result = prepare("RefCOCO+")
    samples = result.train(PairDataset, "grounding_train")
    first, second, third = (s["image_id"] for s in samples)
    assert first != second == third
    boxes = result.lists / "grounding_boxes.json"
    val, test = (GroundingSet.of(result.split(name), boxes) for name in ("grounding_val", "grounding_test"))
    assert val.texts == ["café table", "round thing"]
    assert (val.parts, test.parts) == (["val", "val"], ["testA", "testB", "testB"])
    published = {a["id"]: a["bbox"] for a in json.loads((RAW / "refcoco+/instances.json").read_text())["annotations"]}
    assert val.boxes == [published[702]] * 2
    assert test.boxes == [published[703], published[704], published[704]]
    detected = json.loads((RAW / "refcoco+/dets.json").read_text())
    assert test.proposals[0] == [box[:4] for box in detected["36"]]
    assert all(load_image(image) for image in [*val.images, *test.images])


def test_all_together_from_one_root(tmp_path: Path) -> None:
    rows = [row for name, row in TABLE.items() if name != "Flickr30K"]  # of the two for retrieval
    files: dict[str, Any] = {}
    for row in rows:
        for name, given in row["files"].items():
            files[name] = files.get(name, []) + given
    folders = {name: folder for row in rows for name, folder in (row["folders"] or {}).items()}
    result = Prepared(tmp_path, {"files": files, "folders": folders})
    used = {image for name in names_in(result.lists) for record in result.tables[name] for image in images_of(record)}
    stored = {str(p.relative_to(RAW)) for p in RAW.rglob("*") if p.suffix in (".jpg", ".png")}
    assert used == stored
    assert json.loads((result.data / "manifest.json").read_text())["images"]["count"] == len(stored)
