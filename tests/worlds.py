"""Small inputs that tests of several rooms share."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from PIL import Image

from albef import config as configuration
from albef.config import Config, TokenizerConfig
from albef.data import tokenizer

ROOT = Path(__file__).parents[1]
COLOURS = ("red", "green", "blue", "white", "black", "yellow", "purple", "orange")


def tiny_config(**train: Any) -> Config:
    """The demo's parameters with a model that steps in milliseconds; ``train`` changes every training section."""
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
    tasks = dataclasses.replace(
        config.tasks,
        **{
            name: dataclasses.replace(section, train=dataclasses.replace(section.train, **values))
            for name, section in sections.items()
        },
    )
    return dataclasses.replace(config, model=model, pretrain=pretrain, text_assignment=assignment, tasks=tasks)


def write_params(config: Config, path: Path) -> Path:
    """Save a configuration as a parameter file (JSON is YAML)."""
    path.write_text(json.dumps(configuration.to_dict(config)), encoding="utf-8")
    return path


def colour_world(folder: Path, images: int = 64) -> Path:
    """Pictures of two colours, top and bottom, with lists for pretraining and retrieval, and a tokenizer.

    Returns:
        The folder, with ``images/``, ``lists/`` and ``tokenizer/``.
    """
    (folder / "images").mkdir(parents=True)
    (folder / "lists").mkdir()
    rows = []
    for index in range(images):
        top, bottom = COLOURS[index % 8], COLOURS[index // 8 % 8]
        picture = Image.new("RGB", (32, 32), top)
        picture.paste(bottom, (0, 16, 32, 32))
        picture.save(folder / "images" / f"{index}.png")
        rows.append((f"images/{index}.png", f"{top} above {bottom}", index))
    pretrain = [{"image": i, "caption": [c, f"a picture of {c}"]} for i, c, _ in rows]
    train = [{"image": i, "caption": c, "image_id": n} for i, c, n in rows]
    split = [{"image": i, "caption": [c]} for i, c, _ in rows]
    for name, records in (
        ("pretrain", pretrain),
        ("retrieval_train", train),
        ("retrieval_val", split[:16]),
        ("retrieval_test", split[:16]),
    ):
        (folder / "lists" / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
    tokenizer.run(TokenizerConfig(kind="wordpiece", vocab_size=128), folder / "lists", folder / "tokenizer")
    return folder
