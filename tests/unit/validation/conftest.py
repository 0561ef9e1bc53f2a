from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from albef import config as configuration
from albef.config import ValidateConfig
from albef.data.schema import images_of, known_lists, problems
from albef.datasets import tables
from tests import ROOT


@pytest.fixture
def config() -> ValidateConfig:
    return configuration.load(ROOT / "params.yaml").validate


@pytest.fixture
def quarantine(config: ValidateConfig) -> ValidateConfig:
    return dataclasses.replace(config, on_bad_record="quarantine", max_bad_share=0.2)


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that prepares valid lists of ten records, with changes."""

    def write(files: Callable[[Path], Any] = lambda folder: None, **changes: Callable[[list[Any]], Any]) -> Path:
        data = tmp_path / "raw"
        data.mkdir()
        for split, base in (("pretrain", 0), ("train", 60), ("val", 120), ("test", 180)):
            for i in range(10):
                image = Image.new("RGB", (40, 40), (base + i, i, 0))
                image.save(data / f"{split}{i}.png")
        lists: dict[str, Any] = {
            "pretrain": [{"image": f"pretrain{i}.png", "caption": [f"thing {i}"]} for i in range(10)],
            "retrieval_train": [{"image": f"train{i}.png", "caption": f"thing {i}", "image_id": i} for i in range(10)],
            "retrieval_val": [{"image": f"val{i}.png", "caption": [f"thing {i}"]} for i in range(10)],
            "retrieval_test": [{"image": f"test{i}.png", "caption": [f"thing {i}"]} for i in range(10)],
            "vqa_val": [
                {"question_id": i, "question": "what", "image": f"val{i}.png", "dataset": "vqa", "answer": ["yes"] * 10}
                for i in range(10)
            ],
            "nlvr_train": [
                {"sentence": "both", "label": str(i % 2 == 0), "images": [f"train{i}.png", "train0.png"]}
                for i in range(10)
            ],
            "grounding_test": [{"image": f"test{i}.png", "text": "the thing", "ref_id": i} for i in range(10)],
            "answer_list": ["yes", "no"],
            "grounding_boxes": {
                "refs": {str(i): {"image": f"test{i}.png", "box": [1, 1, 5, 5]} for i in range(10)},
                "proposals": {f"test{i}.png": [[1, 1, 5, 5]] for i in range(10)},
            },
        }
        for name, records in lists.items():
            if name in changes:
                lists[name] = changes[name](records) or records
        files(data)
        return prepare(tmp_path / "data", data, lists)

    return write


def prepare(out: Path, images: Path, lists: dict[str, Any]) -> Path:
    """Write lists as `albef prepare` does, with the images of valid records."""
    kinds = known_lists()
    valid = [r for name, rows in lists.items() if name in kinds for r in rows if not problems(r, kinds[name])]
    paths = sorted({path for record in valid for path in images_of(record)})
    contents = ((path, (images / path).read_bytes() if (images / path).is_file() else None) for path in paths)
    manifest = tables.write(out, lists, contents)
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return out
