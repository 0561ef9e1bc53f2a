"""Synthetic data sets and configurations shared by the tests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from PIL import Image

from albef import config as configuration
from albef.config import Config, TokenizerConfig, TuneConfig
from albef.data import tokenizer
from albef.datasets import tables
from tests import ROOT

COLORS = ("red", "green", "blue", "white", "black", "yellow", "purple", "orange")


def tiny_config(**train: Any) -> Config:
    """Return the demo parameters with a tiny model.

    ``train`` changes every training section.
    """
    config = configuration.load(ROOT / "params.yaml")
    model = dataclasses.replace(
        config.model,
        image_size=32,
        vision=dataclasses.replace(config.model.vision, width=32, depth=2, heads=2),
        text=dataclasses.replace(config.model.text, width=32, layers=1, fusion_layers=2, heads=2, ffn=64, dropout=0.1),
        projection=16,
        queue_size=32,
    )
    values = {"epochs": 3, "batch_size": 8, "log_every": 2, "checkpoint_every": 3, "augment": "light", **train}
    pretrain = dataclasses.replace(config.pretrain, **values)
    assignment = dataclasses.replace(config.text_assignment, **values)
    sections = {field.name: getattr(config.tasks, field.name) for field in dataclasses.fields(config.tasks)}
    for name, section in sections.items():
        changes = {**values, "share_images": False} if hasattr(section.train, "share_images") else values
        sections[name] = dataclasses.replace(section, train=dataclasses.replace(section.train, **changes))
    tasks = dataclasses.replace(config.tasks, **sections)
    return dataclasses.replace(config, model=model, pretrain=pretrain, text_assignment=assignment, tasks=tasks)


def tiny_tune(**changes: Any) -> TuneConfig:
    """A search of four trials, one at a time."""
    config = TuneConfig(
        tasks=["retrieval", "vqa", "entailment"],
        trials=4,
        concurrent=1,
        cpus_per_trial=1,
        gpus_per_trial=0,
        grace_epochs=1,
        seed=0,
        epochs=None,
        rows=None,
    )
    return dataclasses.replace(config, **changes)


def write_params(config: Config, path: Path) -> Path:
    """Save a configuration as a parameter file (JSON is YAML)."""
    path.write_text(json.dumps(configuration.to_dict(config)), encoding="utf-8")
    return path


def color_world(folder: Path, images: int = 64) -> Path:
    """Write images of two colors, the lists of every task and a tokenizer.

    Val and test are the first 16 images of train.

    Returns:
        The folder, with ``images/``, ``lists/`` and ``tokenizer/``.
    """
    (folder / "images").mkdir(parents=True)
    (folder / "lists").mkdir()
    rows = []
    for index in range(images):
        top, bottom = COLORS[index % 8], COLORS[index // 8 % 8]
        image = Image.new("RGB", (32, 32), top)
        image.paste(bottom, (0, 16, 32, 32))
        image.save(folder / "images" / f"{index}.png")
        rows.append((f"images/{index}.png", top, bottom))
    for name, records in _lists(rows).items():
        (folder / "lists" / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
    tokenizer.run(TokenizerConfig(kind="wordpiece", vocab_size=128), folder / "lists", folder / "tokenizer")
    return folder


def _lists(rows: list[tuple[str, str, str]]) -> dict[str, Any]:
    """Return the lists of all tasks, by name."""
    captions = [f"{top} above {bottom}" for _, top, bottom in rows]
    result: dict[str, Any] = {
        "pretrain": [
            {"image": i, "caption": [text, f"a flag of {text}"]} for (i, _, _), text in zip(rows, captions, strict=True)
        ],
        "retrieval_train": [
            {"image": i, "caption": text, "image_id": n}
            for n, ((i, _, _), text) in enumerate(zip(rows, captions, strict=True))
        ],
        "answer_list": [*COLORS, "dark red", "dark red and green"],
    }
    refs: dict[str, Any] = {}
    proposals = {i: [[0, 0, 32, 16], [0, 16, 32, 16], [0, 0, 16, 32], [8, 8, 16, 16]] for i, _, _ in rows}
    for split, part in (("train", rows), ("val", rows[:16]), ("test", rows[:16])):
        if split != "train":
            result[f"retrieval_{split}"] = [
                {"image": i, "caption": [text]} for (i, _, _), text in zip(part, captions, strict=False)
            ]
        result[f"vqa_{split}"] = [
            _question(number, row, vg=split == "train" and number % 4 == 3) for number, row in enumerate(part)
        ]
        result[f"ve_{split}"] = [_claim(number, row) for number, row in enumerate(part)]
        result[f"nlvr_{split}"] = [
            {
                "images": [left, right],
                "sentence": f"both images have {top} above",
                "label": str(top == other),
            }
            for (left, top, _), (right, other, _) in zip(part, part[7:] + part[:7], strict=True)
        ]
        expressions: list[dict[str, Any]] = []
        for image, top, bottom in part:
            expressions += [{"image": image, "text": f"the {top} half"}, {"image": image, "text": f"the {bottom} half"}]
        if split != "train":
            for number, row in enumerate(expressions):
                row["ref_id"] = f"{split} {number}"
                refs[row["ref_id"]] = {"image": row["image"], "box": [0, 16 * (number % 2), 32, 16], "split": split}
        result[f"grounding_{split}"] = expressions
    return {**result, "grounding_boxes": {"refs": refs, "proposals": proposals}}


def _question(number: int, row: tuple[str, str, str], vg: bool) -> dict[str, Any]:
    image, top, bottom = row
    color = (top, bottom)[number % 2]
    record = {"image": image, "question": f"what color is {('above', 'below')[number % 2]}?"}
    if vg:
        return {**record, "dataset": "vg", "answer": color}
    return {**record, "dataset": "vqa", "question_id": number, "answer": [color] * 7 + [f"dark {color}"] * 3}


def _claim(number: int, row: tuple[str, str, str]) -> dict[str, Any]:
    image, top, _ = row
    other = COLORS[(COLORS.index(top) + 1) % len(COLORS)]
    sentence, label = (
        (f"it is {top} above", "entailment"),
        (f"it is {other} above", "contradiction"),
        ("it is a flag", "neutral"),
    )[number % 3]
    return {"image": image, "sentence": sentence, "label": label}


def write_tables(world: Path, folder: Path) -> Path:
    """Write the tables of a `color_world`, as `albef prepare` does.

    Returns:
        The folder, which has the lists, too.
    """
    contents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (world / "lists").glob("*.json")}
    images = sorted((f"images/{path.name}", path.read_bytes()) for path in (world / "images").iterdir())
    tables.write(folder, contents, images)
    return folder
