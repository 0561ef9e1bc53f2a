"""Training loop for all tasks.

A run is deterministic in parameters, data and code: if killed at any point and started again, it ends with the same
weights bit for bit (on CPU). With a process group, ranks split each batch and average gradients (DDP), and
rank 0 writes files.
"""

from __future__ import annotations

import copy
import csv
import inspect
import io
import json
import logging
import math
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from albef import distributed
from albef.data.faults import SkippedRows
from albef.data.loader import TrainLoader
from albef.data.stream_loader import StreamLoader, StreamSet
from albef.io import write_file
from albef.losses.distill import ramped_alpha
from albef.progress import Progress as Bar
from albef.tasks.base import Task, TaskData
from albef.training import state as run_state
from albef.training.compiled import compile_regions
from albef.training.inputs import on_device, padded
from albef.training.optim import build_optimizer, learning_rate
from albef.training.step import TrainingError, TrainStep
from albef.training.writer import Writer
from albef.weights import checkpoint as model_file

_logger = logging.getLogger(__name__)

_AGREE_EVERY = 10
"""Steps between the agreements of several ranks whether to stop, since each waits for the device."""


class Tracker(Protocol):
    """Interface of experiment trackers."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Log metrics of a step; must not block or raise."""


@dataclass
class Progress:
    """Progress of a run, saved in checkpoints."""

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    best: float = -math.inf


class _Stop:
    """Signal handler that requests the loop to save a checkpoint and exit.

    Args:
        file: File whose existence requests it, too.
        device: Device of the ranks' agreement.
    """

    def __init__(self, file: Path | None, device: torch.device) -> None:
        self.file, self.device, self.signaled = file, device, False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self.signaled = True

    def requested(self, step: int) -> bool:
        """Return whether to stop after a step; all ranks get the same answer."""
        alone = distributed.world_size() == 1
        if step % _AGREE_EVERY:
            return alone and self.signaled
        stop = self.signaled or (self.file is not None and self.file.exists())
        return stop if alone else distributed.any_true(stop, self.device)


@contextmanager
def _on_sigterm(file: Path | None, device: torch.device) -> Iterator[_Stop]:
    stop = _Stop(file, device)
    if threading.current_thread() is not threading.main_thread():  # only this one can set signal handlers
        yield stop
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, previous)


class Loop:
    """Trains a task and writes ``model.pth``, ``metrics.json`` and ``history.csv``.

    Rows that cannot be read are replaced by others and listed in ``skipped_rows.jsonl``; see `albef.data.faults`.

    Args:
        work_dir: Folder for checkpoints of exactly this run (see `albef.training.state.fingerprint`).
        out: Folder for the results.
        stop_file: File whose existence stops several ranks as SIGTERM stops a single process.
    """

    def __init__(
        self,
        task: Task,
        data: TaskData,
        work_dir: Path,
        out: Path,
        tracker: Tracker,
        device: torch.device,
        stop_file: Path | None = None,
    ) -> None:
        self.config = task.train_config(task.config)
        if self.config.deterministic and device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first matrix product
            torch.use_deterministic_algorithms(True, warn_only=True)
        self.task, self.data, self.tracker, self.device = task.to(device), data, tracker, device
        self.work_dir, self.out, self.stop_file = work_dir, out, stop_file
        self.writer = Writer()
        self.dataset = task.dataset(data)
        self.steps_per_epoch = len(self.dataset) // self.config.batch_size
        self.skipped_rows = SkippedRows(task.name, self.dataset, out)
        self.is_main = distributed.rank() == 0
        self.optimizer = build_optimizer(task, self.config.optim, task.config.model.official_quirks)
        self.progress = Progress()
        if self.config.activation_checkpointing:  # the teacher, without gradients, keeps none
            task.model.student.vision.vit.set_grad_checkpointing(True)
        if device.type == "cuda" if self.config.compile is None else self.config.compile:
            compile_regions(task.model, task.fixed_shapes)
        ranks = distributed.world_size()
        compress = task.config.distributed.compress_gradients
        if compress is None:
            compress = device.type == "cuda" and self.config.precision == "bf16"
        parallel = ranks > 1
        forward = _data_parallel(self.task, device, self.config.parts(ranks), compress) if parallel else self.task
        self.step = TrainStep(task, forward, self.optimizer, self.config, device)
        self.step.longest_allowed = min(self.step.longest_allowed, self.steps_per_epoch * self.config.epochs)

    @cached_property
    def loader(self) -> TrainLoader | StreamLoader:
        """Loader of this rank's batches."""
        shard = (distributed.rank(), distributed.world_size())
        if isinstance(self.dataset, StreamSet):
            return StreamLoader(self.dataset, self.data.encoder, self.config, shard)
        return TrainLoader(self.dataset, self.data.encoder, self.config, shard)

    def run(self) -> dict[str, float]:
        """Train to the end, resuming from the latest checkpoint if any.

        Returns:
            Final metrics, on rank 0 only.

        Raises:
            TrainingError: If the losses of too many steps in a row or the weights are not finite, or results cannot be
                written.
            BadRowsError: If too many rows cannot be read.
            SystemExit: With code 143 after SIGTERM, once a checkpoint is saved.
        """
        self._check_output()
        self._warn_if_short()
        self._resume()
        total = self.steps_per_epoch * self.config.epochs
        bar = Bar(
            total=total, description=self.task.name, unit="steps", initial=self.progress.step, enabled=self.is_main
        )
        with _on_sigterm(self.stop_file, self.device) as stop, bar, ExitStack() as stack:
            stack.callback(self.writer.wait)  # after an error, too: the run resumes from what was saved before it
            stack.callback(self.__dict__.pop, "loader", None)  # ends its processes; garbage collection waits for them
            for epoch in range(len(self.progress.validation), self.config.epochs):
                if self.progress.step < (epoch + 1) * self.steps_per_epoch:
                    self._epoch(epoch, bar, stop)
                    self.step.check()
                    self._save()  # before validation: a run that is killed in it validates again
                self._validate(epoch)
                self._save()
        return self._finish() if self.is_main else {}

    def _check_output(self) -> None:
        """Raise TrainingError if results cannot be written, before any time is spent on them."""
        if not self.is_main:
            return
        for folder in (self.out, self.work_dir):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                raise TrainingError(f"{folder}: cannot write here ({error.strerror}); choose another folder") from error

    def _warn_if_short(self) -> None:
        """Say which intervals are longer than the run."""
        total, optim = self.steps_per_epoch * self.config.epochs, self.config.optim
        for key, steps in (("optim.warmup_steps", optim.warmup_steps), ("log_every", self.config.log_every)):
            if steps > total and self.is_main:
                _logger.warning(
                    "%s: %s is %d, but the run has %d steps; lower it or train longer",
                    self.task.name,
                    key,
                    steps,
                    total,
                )

    def _epoch(self, epoch: int, bar: Bar, stop: _Stop) -> None:
        self.task.train()
        start = self.progress.step - epoch * self.steps_per_epoch
        if start == 0:
            self.skipped_rows.begin_epoch()
        logged, logged_at = self.progress.step, time.perf_counter()
        with closing(self._batches(epoch, start)) as batches:
            for parts in batches:
                self.skipped_rows.add(parts)
                for part in parts:
                    self.loader.use(part)
                self.train_step(parts)
                bar.update()
                step = self.progress.step
                only = step == self.steps_per_epoch * self.config.epochs and not self.progress.history
                if step % self.config.log_every == 0 or only:
                    row = self._log()
                    self.skipped_rows.check(step)
                    rate = (step - logged) * self.config.batch_size / (time.perf_counter() - logged_at)
                    logged, logged_at = step, time.perf_counter()
                    self.tracker.log_metrics({**row, "images_per_second": rate}, step)
                    bar.set_postfix(refresh=False, loss=f"{row['loss']:.3f}", images_s=f"{rate:.0f}")
                    if self.is_main:
                        _logger.info("%s: step %d, loss %.3f, %.0f images/s", self.task.name, step, row["loss"], rate)
                last, stopped = step % self.steps_per_epoch == 0, stop.requested(step)
                if stopped or (step % self.config.checkpoint_every == 0 and not last):
                    self.step.check()
                    self._save()
                if stopped:
                    _logger.warning("%s: stopped by SIGTERM at step %d; run again to resume", self.task.name, step)
                    raise SystemExit(128 + signal.SIGTERM)

    def _batches(self, epoch: int, start: int) -> Generator[list[dict[str, Any]]]:
        """Yield the parts of each batch, on the device."""
        batches = on_device(self.loader.batches(epoch, start), self.device)
        while parts := list(islice(batches, self.config.parts(distributed.world_size()))):
            yield parts

    def train_step(self, parts: Sequence[dict[str, Tensor]]) -> None:
        """Train on the parts of a batch, which are on the device."""
        config, step = self.config, self.progress.step
        rate = learning_rate(step, self.steps_per_epoch, config.epochs, config.optim)
        alpha = ramped_alpha(config.alpha, step, config.alpha_ramp_epochs * self.steps_per_epoch)
        if self.device.type == "cuda":
            parts = [padded(part, self.data.encoder.pad, config.max_tokens) for part in parts]
        self.step(parts, rate, alpha)
        self.progress.step += 1

    def _log(self) -> dict[str, float]:
        """Return the mean losses since the last call.

        This is the only host-device synchronization of the training steps.

        Raises:
            TrainingError: If the losses of too many steps in a row were not finite.
        """
        step = self.progress.step
        means, skipped = self.step.read()
        self.skipped_rows.gather()
        row = {
            "step": step,
            "epoch": step / self.steps_per_epoch,
            "lr": learning_rate(step - 1, self.steps_per_epoch, self.config.epochs, self.config.optim),
            **means,
            "skipped_steps": skipped,
            "skipped_rows": self.skipped_rows.total,
        }
        if self.task.model.architecture.align:
            row["temperature"] = self.task.model.temperature.item()
        self.progress.history.append(row)
        return row

    def _validate(self, epoch: int) -> None:
        self.task.eval()
        with torch.compiler.set_stance("force_eager"):  # its shapes vary too much to be compiled
            metrics = self.task.validate(self.data) if self.task.validates(self.data) else {}
        self.progress.validation.append(metrics)
        if metrics:
            self.tracker.log_metrics(named := {f"val_{k}": v for k, v in metrics.items()}, self.progress.step)
            for row in self.progress.history[-1:]:  # the last one of the epoch, if any
                row.update(named)
        selection = self.task.selection
        if selection is None or selection not in metrics:
            return  # without the selection metric (a split without answers) no epoch is the best
        better = metrics[selection] > self.progress.best
        self.progress.best = max(self.progress.best, metrics[selection])
        if self.is_main:
            if better:
                run_state.save(self.work_dir / "best.pt", {"step": self.progress.step, "model": self.task.state_dict()})
            _logger.info("%s: epoch %d: %s", self.task.name, epoch, metrics)

    def _save(self) -> None:
        self.skipped_rows.gather()
        workers = distributed.gather_objects(
            {"random": run_state.random_state(), "sums": self.step.state(), "loader": self.loader.state()}
        )
        if self.is_main:
            state = {
                "step": self.progress.step,
                "progress": copy.deepcopy(vars(self.progress)),
                "task": self.task.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "skipped_rows": self.skipped_rows.state(),
                "workers": workers,
            }
            self.skipped_rows.write()
            self.writer.write(self.work_dir / "checkpoint.pt", state)
        self.skipped_rows.check(self.progress.step)  # after saving, so that another limit repeats no step

    def _resume(self) -> None:
        state = run_state.load(self.work_dir / "checkpoint.pt")
        distributed.barrier()  # no rank may start to write while another still reads
        self.skipped_rows.clear()
        if state is None:
            torch.manual_seed(self.config.seed + distributed.rank())
            self.task.begin()
            return
        self.task.load_state_dict(state["task"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self.skipped_rows.load_state(state["skipped_rows"])
        worker = run_state.of_rank(state["workers"], self.config.seed, self.progress.step)
        self.step.load_state(worker["sums"])
        self.loader.load_state(worker.get("loader"))
        if "random" in worker:
            run_state.restore_random(worker["random"])
        if self.is_main:
            ranks = distributed.world_size()
            _logger.warning("%s: resuming at step %d, devices: %d", self.task.name, self.progress.step, ranks)

    def _finish(self) -> dict[str, float]:
        best = run_state.load(self.work_dir / "best.pt")
        if best is not None:
            self.task.load_state_dict(best["model"])
        # All steps since the last row may be skipped ones, without a loss.
        last = next((row for row in reversed(self.progress.history) if math.isfinite(row["loss"])), {})
        metrics = {name: value for name, value in last.items() if name.endswith("loss")}
        if any(self.progress.validation):
            selection = self.task.selection
            rows = self.progress.validation
            selected = max(rows, key=lambda row: row[selection]) if selection in rows[-1] else rows[-1]
            metrics |= {f"val_{name}": value for name, value in selected.items()}
        metrics["skipped_rows"] = self.skipped_rows.total
        self.skipped_rows.report(self.progress.step)
        self.step.report(self.progress.step)
        model_file.save(self.task.model, self.out / "model.pth")
        write_file(self.out / "history.csv", _as_csv(self.progress.history))
        write_file(self.out / "metrics.json", json.dumps(metrics, indent=1, sort_keys=True) + "\n")
        shutil.rmtree(self.work_dir, ignore_errors=True)
        return metrics


def _data_parallel(task: Task, device: torch.device, parts: int, compress: bool) -> DistributedDataParallel:
    """Wrap a task so that gradients are averaged over the ranks, in bf16 with ``compress``.

    Buffers are not synchronized: teacher, queue and frozen modules start equal and change equally on all ranks.
    """
    devices = [device] if device.type == "cuda" else None
    parameters = inspect.signature(DistributedDataParallel).parameters
    # Renamed in torch 2.15.
    sync_buffers = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    options: dict[str, Any] = {sync_buffers: False, "gradient_as_bucket_view": True}
    options["static_graph"] = parts == 1  # a static graph cannot accumulate gradients
    wrapped = DistributedDataParallel(task, devices, **options)
    if compress:
        wrapped.register_comm_hook(None, bf16_compress_hook)
    return wrapped


def _as_csv(rows: list[dict[str, float]]) -> str:
    buffer = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(buffer, names or ["step"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
