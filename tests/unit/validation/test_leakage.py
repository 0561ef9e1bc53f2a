"""Tests of the leakage check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from albef.data.lists import IMAGE_FOLDER
from albef.validation.columns import first_of_equal, lists
from albef.validation.facts import Facts
from albef.validation.images import ImageIndex
from albef.validation.leakage import Leaks, held_out_lists
from tests.unit.validation.conftest import prepare
from tests.unit.validation.test_perceptual_hash import recompressed, scene


def test_what_a_list_must_keep_away_from() -> None:
    assert set(held_out_lists("retrieval_train")) == {"retrieval_val", "retrieval_test"}
    assert held_out_lists("vqa_val") == ("vqa_test",)
    assert held_out_lists("vqa_test") == ()
    assert {"retrieval_val", "grounding_test", "nlvr_test"} <= set(held_out_lists("pretrain"))
    # Official fine-tunes share images across tasks: COCO train is VQA val.
    assert "vqa_val" not in held_out_lists("retrieval_train")


def leaks(tmp_path: Path, records: dict[str, Any], name: str, distance: int | None = None) -> dict[int, str]:
    """First leak of each record of a list."""
    facts = Facts(prepare(tmp_path / "data", tmp_path, records), tmp_path / "work")
    facts.compute()
    images = ImageIndex(facts.parts[IMAGE_FOLDER])
    held_out = Leaks({n: facts.parts[n] for n in records}, images, distance).of(name)
    found: dict[int, str] = {}
    for part in facts.parts[name]:
        flat, lengths = lists(part.read(["images"])["images"])
        for row, message in held_out.problems(flat, part.start + np.repeat(np.arange(len(lengths)), lengths)):
            found.setdefault(int(row), message)
    return found


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_the_same_content_or_path_leaks(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ("IMAGE_ROWS", "RECORD_ROWS"):
        monkeypatch.setattr(f"albef.validation.facts.{size}", rows)
    for name, color in (("a", 1), ("b", 2), ("c", 1)):
        Image.new("RGB", (8, 8), (color, 0, 0)).save(tmp_path / name, "PNG")
    (tmp_path / "d").write_bytes(b"broken")
    (tmp_path / "e").write_bytes(b"broken")

    def nlvr(*images: Any) -> list[Any]:
        return [{"images": i, "sentence": "both", "label": "True"} if i else "malformed" for i in images]

    records = {
        "nlvr_train": nlvr(["b", "a"], ["b", "b"], None, ["b", "d"], ["e", "e"]),
        "nlvr_test": nlvr(["c", "c"], None, ["d", "d"], ["c", "c"]),
    }
    assert leaks(tmp_path, records, "nlvr_train") == {
        0: "a has the same content as an image of nlvr_test, row 0",
        3: "d has the same content as an image of nlvr_test, row 2",
    }


def test_copies_in_another_size_or_compression_leak(tmp_path: Path) -> None:
    for number in range(4):
        scene(number).save(tmp_path / f"test{number}.png")
        scene(100 + number).save(tmp_path / f"train{number}.png")
    recompressed(scene(1), 60).save(tmp_path / "train1.png")
    scene(2).resize((200, 150)).save(tmp_path / "train2.jpg", "JPEG")
    scene(3).convert("L").save(tmp_path / "train3.png")  # the same in gray is another image
    train = ["train0.png", "train1.png", "train2.jpg", "train3.png"]
    records = {
        "pretrain": [{"image": image, "caption": "a thing"} for image in train],
        "retrieval_train": [{"image": "test0.png", "caption": "a thing", "image_id": 0}],
        "vqa_val": [{"image": "train2.jpg", "question": "what", "question_id": 7, "dataset": "vqa"}],
        "retrieval_test": [{"image": f"test{number}.png", "caption": ["a thing"]} for number in range(4)],
    }
    found = leaks(tmp_path / "", records, "pretrain", 3)
    assert found.keys() == {1, 2}
    assert found[1].startswith("train1.png looks like test1.png, an image of retrieval_test, row 1 (perceptual hashes")
    assert found[2] == "train2.jpg has the same content as an image of vqa_val, row 0"  # rather than another's copy
    work = tmp_path / "again"
    (work).mkdir()
    for path in tmp_path.glob("*.*g"):
        (work / path.name).write_bytes(path.read_bytes())
    assert leaks(work, records, "pretrain", None).keys() == {2}


def test_the_first_equal_row() -> None:
    keys = np.array([[1, 2], [2, 1], [1, 2], [1, 3], [2, 1], [1, 2]], np.uint64)
    assert first_of_equal(keys).tolist() == [0, 1, 0, 3, 1, 0]
    assert first_of_equal(np.empty((0, 2), np.uint64)).tolist() == []
