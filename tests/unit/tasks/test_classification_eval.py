"""Tests of visual entailment and NLVR2 evaluation with shared images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from albef.data.lists import Images, read_rows
from albef.data.schema import SchemaError
from albef.data.tokenizer import Encoder
from albef.inference.encode import pixels_of, words_of
from albef.models.albef import ALBEF
from albef.tasks.classification_eval import ClassificationSet, evaluate
from tests.errors import refuses
from tests.worlds import color_world, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_world(tmp_path_factory.mktemp("classification") / "world", images=16)


@pytest.mark.parametrize(("task", "prefix"), [("entailment", "ve"), ("nlvr2", "nlvr")])
def test_equals_a_pass_row_by_row(world: Path, task: str, prefix: str) -> None:
    encoder = Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    torch.manual_seed(0)
    model = ALBEF(tiny_config().model, encoder.vocab_size, task)
    read = ClassificationSet.of(read_rows(world / "lists" / f"{prefix}_val.json", Images(world)))
    # Images that occur several times, in either position.
    images = [tuple(read.images[(n + place) % 5][0] for place in range(len(row))) for n, row in enumerate(read.images)]
    split = ClassificationSet(images, read.names, read.sentences, read.labels, read.classes)
    config = getattr(tiny_config().tasks, task)
    result = evaluate(model, split, encoder, config)
    assert model.training

    model.eval()
    expected = []
    with torch.no_grad():
        for row, sentence in zip(split.images, split.sentences, strict=True):
            ids, mask = words_of([sentence], encoder, config.train, model.device)
            logits = model.student.classify(pixels_of(row, 32).to(model.device), ids, mask)
            expected.append(logits.softmax(dim=-1)[0].numpy())
    np.testing.assert_allclose(result.probabilities, np.stack(expected), atol=1e-5)
    right = np.stack(expected).argmax(axis=1) == split.labels
    assert result.metrics["accuracy"] == pytest.approx(right.mean())
    for index, name in enumerate(split.classes):
        rows = split.labels == index
        assert result.metrics.get(f"accuracy_{name.lower()}") == (
            pytest.approx(right[rows].mean()) if rows.any() else None
        )


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ve_val", {"label": "maybe"}),
        ("ve_val", {"sentence": " "}),
        ("nlvr_val", {"label": "perhaps"}),
        ("nlvr_val", {"images": ["images/1.png"]}),
    ],
)
def test_a_bad_row_is_named(world: Path, tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    records = json.loads((world / "lists" / f"{name}.json").read_text())
    records[1] |= change
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(records))
    with refuses(SchemaError, f"{name}.json", "row 1", *change):
        ClassificationSet.of(read_rows(path, Images(world)))
