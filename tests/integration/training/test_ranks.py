"""Collectives, training and evaluation by several ranks."""

from __future__ import annotations

import copy
import csv
import dataclasses
import itertools
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from albef import distributed
from albef.config import Config
from albef.data.images import ImageError
from albef.data.lists import Lists
from albef.data.loader import EpochSampler, TrainLoader
from albef.data.tokenizer import Encoder
from albef.losses.distill import ramped_alpha
from albef.losses.itc import Keys, itc_loss
from albef.models.queue import FeatureQueue
from albef.tasks import evaluation, registry
from albef.tasks.base import TaskData, task_class
from albef.training import job as training
from albef.training.job import Job
from albef.training.optim import build_optimizer, learning_rate
from albef.weights import checkpoint
from tests.errors import refuses
from tests.ranks import in_ranks
from tests.served import random_model
from tests.worlds import color_world, tiny_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_world(tmp_path_factory.mktemp("ranks") / "world")


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.booleans())
def test_shares_of_a_batch_are_the_batch(ranks: int, parts: int, epoch: int, grouped: bool) -> None:
    groups = np.arange(50) // 3 if grouped else None
    whole = list(EpochSampler(50, 13, seed=1, epoch=epoch, groups=groups))
    shares = [
        list(EpochSampler(50, 13, seed=1, epoch=epoch, groups=groups, shard=(rank, ranks), parts=parts))
        for rank in range(ranks)
    ]
    assert {len(share) for share in shares} == {len(whole) * parts}
    for number, batch in enumerate(whole):
        own = [part for share in shares for part in share[number * parts : (number + 1) * parts]]
        assert list(itertools.chain(*own)) == batch
        assert [len(part) for part in own] == distributed.sizes(13, ranks * parts)


def _gather(counts: list[int]) -> list[Tensor]:
    rank = distributed.rank()
    rows = torch.arange(counts[rank]) + 10 * rank
    return list(distributed.gather_rows(rows[:, None, None].float().expand(-1, 2, 3), rows, counts=counts))


def test_rows_of_ranks_of_different_sizes_are_gathered() -> None:
    counts = distributed.sizes(8, 3)
    assert counts == [3, 3, 2]
    expected = torch.tensor([0, 1, 2, 10, 11, 12, 20, 21])
    for floats, rows in in_ranks(3, partial(_gather, counts)):
        assert torch.equal(rows, expected)
        assert torch.equal(floats, expected[:, None, None].float().expand(-1, 2, 3))


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 9), st.booleans(), st.floats(0, 1))
def test_gathered_keys_make_shares_of_a_batch_the_batch(ranks: int, batch: int, grouped: bool, alpha: float) -> None:
    """The mean loss of the shares, weighted by their rows, is the loss of the batch."""
    batch, generator = max(batch, ranks), torch.Generator().manual_seed(batch)
    features = [torch.nn.functional.normalize(torch.randn(batch, 8, generator=generator)) for _ in range(4)]
    queues = [torch.nn.functional.normalize(torch.randn(5, 8, generator=generator)) for _ in range(2)]
    ids, queue_ids = (torch.arange(batch) // 2, torch.arange(5)) if grouped else (None, None)
    temperature = torch.tensor(0.1)
    whole = itc_loss(*features, *queues, temperature, alpha, ids, queue_ids)
    first, total = 0, torch.zeros(())
    for count in distributed.sizes(batch, ranks):
        own = slice(first, first + count)
        keys = Keys(features[2], features[3], ids, first)
        shares = [value[own] for value in features]
        part = itc_loss(*shares, *queues, temperature, alpha, None if ids is None else ids[own], queue_ids, keys)
        torch.testing.assert_close(part.image_to_text, whole.image_to_text[own, own])
        total += part.loss * count / batch
        first += count
    torch.testing.assert_close(total, whole.loss)


def _config(ranks: int, dropout: float = 0.0, compress: bool | None = None, **train: Any) -> Config:
    config = tiny_config(**{"epochs": 1, "augment": "none", "log_every": 1, **train})
    text = dataclasses.replace(config.model.text, dropout=dropout)
    workers = dataclasses.replace(config.distributed, world_size=ranks, compress_gradients=compress)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, text=text), distributed=workers)


def _train(config: Config, task: str, world: Path, out: Path, init: Path | None = None) -> None:
    job = Job(task, world / "lists", world, world / "tokenizer", out, init, out / "scratch", "none")
    training.train(config, job, CPU)


def _history(out: Path) -> list[dict[str, float]]:
    with (out / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{name: float(value) for name, value in row.items() if not name.startswith("val_")} for row in rows]


@pytest.mark.parametrize(("ranks", "rows", "compress", "tolerance"), [(3, 2, False, 1e-4), (2, None, True, 2e-2)])
def test_without_batch_wide_losses_ranks_train_as_one_process(
    world: Path, tmp_path: Path, ranks: int, rows: int | None, compress: bool, tolerance: float
) -> None:
    """With shares and parts of different sizes, and with gradients in bf16."""
    init = tmp_path / "init"
    checkpoint.save(random_model(world, _config(1), task="pretrain"), init / "model.pth")
    _train(_config(1), "entailment", world, tmp_path / "one", init)
    config = _config(ranks, compress=compress, device_batch_size=rows)
    in_ranks(ranks, partial(_train, config, "entailment", world, tmp_path / "ranks", init))
    one, several = (_history(tmp_path / name) for name in ("one", "ranks"))
    assert len(one) == len(several) == 8
    for left, right in zip(one, several, strict=True):
        assert right == pytest.approx(left, rel=tolerance, abs=1e-5)
    same = one == several
    assert not same


def _in_turn(
    config: Config, world: Path, patch: pytest.MonkeyPatch
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Return the losses and the weights of pretraining, with both workers computed in one process."""
    train, encoder = config.pretrain, Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    torch.manual_seed(train.seed)
    first = task_class("pretrain")(config, encoder)
    workers = [first, copy.deepcopy(first)]
    dataset = first.dataset(TaskData(Lists(world / "lists", world), encoder))
    optimizers = [build_optimizer(task, train.optim, config.model.official_quirks) for task in workers]
    random = [torch.Generator().manual_seed(train.seed + rank).get_state() for rank in range(2)]
    queued: list[tuple[Tensor, ...]] = []
    enqueue = FeatureQueue.enqueue
    patch.setattr(FeatureQueue, "enqueue", lambda queue, *features: queued.append(features))
    per_epoch, step, rows = len(dataset) // train.batch_size, 0, []
    for epoch in range(train.epochs):
        loaders = [TrainLoader(dataset, encoder, train, shard=(rank, 2)).batches(epoch) for rank in range(2)]
        for batches in zip(*loaders, strict=True):
            alpha = ramped_alpha(train.alpha, step, train.alpha_ramp_epochs * per_epoch)
            outputs = []
            for rank, (task, batch) in enumerate(zip(workers, batches, strict=True)):
                torch.set_rng_state(random[rank])
                outputs.append(task(batch, alpha))
                random[rank] = torch.get_rng_state()
                task.zero_grad()
                torch.stack([v for k, v in outputs[-1].items() if k.endswith("_loss")]).sum().backward()
            for pair in zip(*(task.parameters() for task in workers), strict=True):
                if pair[0].grad is not None:
                    mean = sum(p.grad for p in pair) / 2
                    for p in pair:
                        p.grad = mean.clone()
            for task, optimizer in zip(workers, optimizers, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, per_epoch, train.epochs, train.optim) * group["lr_scale"]
                torch.nn.utils.clip_grad_norm_([p for p in task.parameters() if p.requires_grad], train.optim.clip)
                optimizer.step()
                enqueue(task.model.queue, *(torch.cat(parts) for parts in zip(*queued, strict=True)))
            queued.clear()
            rows.append({name: sum(o[name].item() for o in outputs) / 2 for name in outputs[0]})
            step += 1
    return rows, first.model.state_dict()


def test_two_ranks_pretrain_as_one_process_in_turn(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(2, dropout=0.1, epochs=2)
    in_ranks(2, partial(_train, config, "pretrain", world, tmp_path))
    expected, weights = _in_turn(config, world, monkeypatch)
    assert len(expected) == 16
    for row, other in zip(_history(tmp_path), expected, strict=True):
        for name in ("itc_loss", "itm_loss", "mlm_loss"):
            assert row[name] == pytest.approx(other[name], rel=1e-4)
    found, _ = checkpoint.read(tmp_path / "model.pth")
    for name, value in found.items():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-4)


def test_gathered_negatives_contrast_the_whole_batch(world: Path, tmp_path: Path) -> None:
    """The first ITC loss is that of one process; without gathering, it is lower."""
    losses = {}
    for name, ranks, gather in (("one", 1, False), ("gathered", 3, True), ("local", 3, False)):
        config = _config(ranks)
        section = config.tasks.retrieval
        section = dataclasses.replace(section, train=dataclasses.replace(section.train, gather_negatives=gather))
        config = dataclasses.replace(config, tasks=dataclasses.replace(config.tasks, retrieval=section))
        run = partial(_train, config, "retrieval", world, tmp_path / name)
        run() if ranks == 1 else in_ranks(ranks, run)
        losses[name] = _history(tmp_path / name)[0]["itc_loss"]
    assert losses["gathered"] == pytest.approx(losses["one"], rel=1e-5)
    assert losses["local"] < losses["one"] * (1 - 5e-5)


def test_another_number_of_ranks_resumes(world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two ranks stop after an epoch, three go on, and one ends the run."""
    out = tmp_path / "out"

    def stopped(ranks: int, at: int) -> int:
        config = _config(ranks, dropout=0.1, epochs=3, checkpoint_every=2)
        assert in_ranks(ranks, partial(_train_until, at, config, world, out)) == [at] * ranks
        return at

    stopped(2, 8)
    stopped(3, 11)
    caplog.clear()
    _train(_config(1, dropout=0.1, epochs=3, checkpoint_every=2), "pretrain", world, out)
    assert "resuming at step 10" in caplog.text
    assert [row["step"] for row in _history(out)] == list(range(1, 25))


def _train_until(step: int, config: Config, world: Path, out: Path) -> int:
    """Train until a step, then stop without a checkpoint."""
    from albef.training.loop import Loop

    class Killed(BaseException):
        pass

    original = Loop.train_step

    def until(loop: Loop, parts: Any) -> None:
        if loop.progress.step == step:
            loop.writer.wait()
            raise Killed
        original(loop, parts)

    Loop.train_step = until  # type: ignore[method-assign]  # in a process of its own
    try:
        _train(config, "pretrain", world, out)
    except Killed:
        return step
    raise AssertionError("training ended")


def _evaluate(config: Config, task: str, world: Path, model: Path, out: Path) -> None:
    evaluation._run(config, task, [model, world / "lists", world, world / "tokenizer", out], CPU)


@pytest.mark.parametrize("task", [task.name for task in registry.fine_tuned()])
def test_ranks_evaluate_as_one_process(world: Path, tmp_path: Path, task: str) -> None:
    """To the bit, with loading processes, and with ranks that have nothing to do."""
    config = tiny_config(num_workers=1)
    section = getattr(config.tasks, task)
    tasks = {task: dataclasses.replace(section, evaluate=dataclasses.replace(section.evaluate, batch_size=6))}
    config = dataclasses.replace(config, tasks=dataclasses.replace(config.tasks, **tasks))
    checkpoint.save(random_model(world, config, task=registry.models_for(task)[0]), tmp_path / "model.pth")
    _evaluate(config, task, world, tmp_path, tmp_path / "one")
    in_ranks(4, partial(_evaluate, config, task, world, tmp_path, tmp_path / "ranks"))
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert Path("metrics.json") in files
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "ranks" / file).read_bytes(), file


def test_an_image_that_a_loading_process_cannot_read_is_named(world: Path, tmp_path: Path) -> None:
    config = tiny_config(num_workers=1)
    checkpoint.save(random_model(world, config), tmp_path / "model.pth")
    shutil.copytree(world, tmp_path / "world")
    (tmp_path / "world/images/7.png").unlink()
    with refuses(ImageError, "images/7.png"):
        _evaluate(config, "retrieval", tmp_path / "world", tmp_path, tmp_path / "out")
