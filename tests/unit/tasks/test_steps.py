"""Tests of the training steps of all tasks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from albef.config import Config
from albef.data.lists import Lists, Rows
from albef.data.loader import TrainLoader
from albef.data.tokenizer import Encoder
from albef.tasks import alignment, registry
from albef.tasks.base import Task, TaskData, task_class
from albef.tasks.pretrain.train import Pretrain
from albef.weights import checkpoint
from tests.devices import DEVICE, on_device
from tests.worlds import color_world, tiny_config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TaskData:
    world = color_world(tmp_path_factory.mktemp("steps") / "world", images=16)
    return TaskData(Lists(world / "lists", world), Encoder.from_file(world / "tokenizer" / "tokenizer.json"))


def _task(name: str, config: Config, data: TaskData) -> Task:
    torch.manual_seed(0)
    return task_class(name)(config, data.encoder).eval().to(DEVICE)


def _batch(task: Task, data: TaskData) -> dict[str, Tensor]:
    loader = TrainLoader(task.dataset(data), data.encoder, task.train_config(task.config)).batches(0)
    return on_device(next(iter(loader)))


def _losses(data: TaskData, alpha: float, **switches: Any) -> dict[str, float]:
    """Return losses of one pretraining step with fixed draws and a distinct teacher."""
    config = tiny_config()
    config = dataclasses.replace(config, pretrain=dataclasses.replace(config.pretrain, **switches))
    task = _task("pretrain", config, data)
    assert isinstance(task, Pretrain)
    with torch.no_grad():
        for parameter in task.model.teacher.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    batch = _batch(task, data)
    masked = batch["input_ids"].clone()
    masked[:, 1] = task.mask_id
    labels = torch.full_like(masked, -100)
    labels[:, 1] = batch["input_ids"][:, 1]
    shifted = torch.arange(8, device=DEVICE).roll(1)
    losses = task(batch, alpha, negatives=(shifted, shifted), masked=(masked, labels))
    return {name: value.item() for name, value in losses.items()}


def test_itc_can_be_left_out_of_the_loss(data: TaskData) -> None:
    assert _losses(data, 0.4, itc=False).keys() == {"itm_loss", "mlm_loss"}
    assert _losses(data, 0.4).keys() == {"itc_loss", "itm_loss", "mlm_loss"}


@pytest.mark.parametrize(("switch", "own", "other"), [
    ("distill_itc", "itc_loss", "mlm_loss"),
    ("distill_mlm", "mlm_loss", "itc_loss"),
])  # fmt: skip
def test_distillation_is_switched_loss_by_loss(data: TaskData, switch: str, own: str, other: str) -> None:
    plain, full = _losses(data, 0.0), _losses(data, 0.4)
    assert plain[own] != full[own]
    part = _losses(data, 0.4, **{switch: False})
    assert part[own] == plain[own]
    assert part[other] == full[other]


@pytest.mark.parametrize("hard", [True, False])
def test_negatives_are_drawn_by_similarity_or_evenly(
    data: TaskData, hard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    task = _task(
        "pretrain",
        dataclasses.replace(config, pretrain=dataclasses.replace(config.pretrain, hard_negatives=hard)),
        data,
    )
    seen: list[Tensor] = []
    draw = alignment.draw_negatives

    def recorded(similarity: Tensor, same: Tensor | None = None) -> tuple[Tensor, Tensor]:
        seen.append(similarity)
        return draw(similarity, same)

    monkeypatch.setattr(alignment, "draw_negatives", recorded)
    task(_batch(task, data), 0.4)
    assert len(seen) == 2
    assert all((float(s.std()) > 0) == hard for s in seen)


@pytest.mark.parametrize("name", registry.names())
def test_every_part_that_should_learn_gets_a_gradient(data: TaskData, name: str) -> None:
    task = _task(name, tiny_config(), data)
    losses = task(_batch(task, data), 0.4)
    torch.stack([value for key, value in losses.items() if key.endswith("_loss")]).sum().backward()
    model = task.model
    without = {key for key, value in model.named_parameters() if value.requires_grad and value.grad is None}
    assert without == set()
    assert {key.split(".")[0] for key, value in model.named_parameters() if value.grad is not None} <= {
        "student",
        "itm_head",
        "temperature",
    }
    frozen = {key for key, value in model.student.named_parameters() if not value.requires_grad}
    assert frozen == ({"vision_proj.weight", "vision_proj.bias"} if name == "text_assignment" else set())


@pytest.mark.parametrize("name", ["vqa", "entailment", "nlvr2"])
def test_alpha_weighs_the_teacher(data: TaskData, name: str) -> None:
    """The loss interpolates linearly between labels and teacher targets."""
    values = []
    for alpha in (0.0, 0.5, 1.0):
        task = _task(name, tiny_config(), data)
        with torch.no_grad():
            for parameter in task.model.teacher.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        losses = task(_batch(task, data), alpha)
        values.append(next(value for key, value in losses.items() if key.endswith("_loss")).item())
    assert values[1] == pytest.approx((values[0] + values[2]) / 2, rel=1e-5)
    assert abs(values[0] - values[2]) > 1e-4


def test_a_task_may_see_larger_images_than_pretraining(data: TaskData, tmp_path: Path) -> None:
    config = tiny_config()
    checkpoint.save(_task("pretrain", config, data).model, tmp_path / "model.pth")
    train = dataclasses.replace(config.tasks.vqa.train, image_size=64)
    vqa = dataclasses.replace(config.tasks.vqa, train=train)
    task = _task("vqa", dataclasses.replace(config, tasks=dataclasses.replace(config.tasks, vqa=vqa)), data)
    assert task.model.config.image_size == 64
    batch = _batch(task, data)
    assert batch["image"].shape == (8, 3, 64, 64)
    checkpoint.initialize(task.model, tmp_path / "model.pth")
    assert torch.isfinite(task(batch, 0.4)["answer_loss"])
    assert task.validate(data).keys() == {"accuracy"}


@pytest.mark.parametrize("name", ["vqa", "entailment", "nlvr2"])
def test_sharing_images_changes_no_loss(data: TaskData, name: str) -> None:
    """Compare encoding each image once with encoding one image per row."""
    task = _task(name, tiny_config(augment="none"), data)
    records = list(task.dataset(data).rows)[:3]
    texts = [{**record, "image" if "image" in record else "images": image} for record in records
             for image in [records[0].get("image", records[0].get("images"))] * 2]  # fmt: skip
    losses = []
    for share in (False, True):
        train = dataclasses.replace(task.train_config(task.config), share_images=share)
        dataset = type(task.dataset(data))(Rows(texts, data.lists.images), 32, train)
        batch = on_device(dataset.collate(data.encoder, dataset.__getitems__([(0, row) for row in range(6)])))
        places = 2 if name == "nlvr2" else 1
        assert len(batch["image"]) == (places if share else 6 * places)
        task = _task(name, tiny_config(augment="none"), data)
        losses.append(next(value.item() for key, value in task(batch, 0.4).items() if key.endswith("_loss")))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
