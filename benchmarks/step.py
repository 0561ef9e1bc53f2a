"""Time and memory of a pretraining step on synthetic batches, on a GPU or a CPU.

Variants: as it is, compiled, replayed from a CUDA graph, and the official code's.

.venv/bin/python -m benchmarks.step --batch-size 64 256 --official ../ALBEF
.venv/bin/python -m benchmarks.step --batch-size 8 --precision fp32 bf16 --variants eager --steps 3 --warmup 1

Each row is measured in a process of its own. The batches are on the device before the clock starts, so loading data is
not part of the step. MFU is the needed floating-point operations of a step, divided by its time and by the device's
peak, which is measured as a large matrix product. GiB is the memory reserved on a GPU, or the process's peak on a CPU.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from ruamel.yaml import YAML
from torch import Tensor

from albef import presets
from albef.config import Config, from_dict
from albef.tasks.base import TaskData, task_class
from albef.training.loop import Loop
from benchmarks.load.loop import table

GFLOP_PER_SAMPLE = 258.0
"""Needed operations of a step per sample: ViT-B/16 at 256 pixels, BERT-base cut in two, 30 tokens, distillation."""
HEADER = ["batch", "precision", "variant", "ms", "images/s", "MFU %", "GiB", "waits", "loss"]


@dataclass(frozen=True)
class Words:
    """Stand-in for a tokenizer: the ids that pretraining uses."""

    vocab_size: int
    pad: int = 0
    cls: int = 2
    sep: int = 3
    mask: int = 4


def synthetic_batch(config: Config, words: Words, size: int, tokens: int, device: torch.device) -> dict[str, Tensor]:
    """Return a batch of random images, as bytes, and texts of full length."""
    generator = torch.Generator().manual_seed(0)
    side = config.model.image_size
    ids = torch.randint(5, words.vocab_size, (size, tokens), generator=generator)
    ids[:, 0] = words.cls
    batch = {
        "image": torch.randint(256, (size, 3, side, side), generator=generator, dtype=torch.uint8),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "image_id": torch.arange(size),
    }
    return {name: value.to(device) for name, value in batch.items()}


def measure(step: Callable[[], None], device: torch.device, steps: int, warmup: int) -> float:
    """Return the median seconds of a step."""

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    times = []
    for number in range(warmup + steps):
        synchronize()
        start = time.perf_counter()
        step()
        synchronize()
        if number >= warmup:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_flops(device: torch.device) -> float:
    """Return the operations per second of a large matrix product.

    It is bf16 on a GPU and fp32 on a CPU, which may emulate bf16.
    """
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / measure(lambda: torch.mm(left, right), device, 10, 3)  # type: ignore[arg-type, return-value]


def loop_of(config: Config, words: Words, variant: str, size: int, device: torch.device) -> Loop:
    """Return a training loop over synthetic data."""
    train = replace(
        config.pretrain,
        batch_size=size,
        device_batch_size=None,
        max_tokens=None,
        compile=variant in ("compiled", "graph"),
        cuda_graph=variant == "graph",
    )
    torch.manual_seed(0)
    torch.compiler.reset()
    config = replace(config, pretrain=train, distributed=replace(config.distributed, world_size=1))
    task = task_class("pretrain")(config, words)  # type: ignore[arg-type]
    task.dataset = lambda data: range(1_000_000)  # type: ignore[assignment, method-assign, return-value]
    with tempfile.TemporaryDirectory() as folder:
        data = TaskData(None, words)  # type: ignore[arg-type]
        loop = Loop(task, data, Path(folder), Path(folder), mock.Mock(), device)
    loop.task.train()
    return loop


def synchronizations(step: Callable[[], None]) -> int:
    """Return how often a step waits for the device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


KINDS = {
    "attention": ("_forward", "_backward_queries", "_backward_keys", "fmha", "flash", "cudnn", "dot_product"),
    "products": ("gemm", "nvjet", "cutlass", "xmma", "wgmma", "splitk", "aten::mm", "addmm", "bmm", "mkldnn"),
    "compiled": ("triton_",),
    "optimizer, teacher": ("multi_tensor", "foreach", "adam"),
    "gather, sort": ("index", "gather", "scatter", "sort"),
    "copies": ("memcpy", "memset", "copy"),
}
"""Kinds of kernels, on a CPU operators, by parts of their names; the first match counts."""


def breakdown(step: Callable[[], None], device: torch.device, kernels: int, steps: int = 3) -> dict[str, float]:
    """Return the milliseconds of a step by kind of kernel; print the slowest kernels."""
    on_gpu = device.type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profile:
        for _ in range(steps):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    times = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count)
        for event in profile.key_averages()
    }
    totals: Counter[str] = Counter()
    for number, (key, (spent, count)) in enumerate(sorted(times.items(), key=lambda item: -item[1][0])):
        milliseconds, name = spent / 1e3 / steps, key.lower()
        if number < kernels:
            print(f"{milliseconds:8.3f} ms {count // steps:5}  {key[:150]}")
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other")
        totals[kind] += milliseconds
    return dict(totals.most_common())


def row_of(
    config: Config,
    size: int,
    precision: str,
    variant: str,
    steps: int,
    warmup: int,
    tokens: int,
    kernels: int = 0,
    official: Path | None = None,
) -> list[Any]:
    """Return a row of the table, measured in this process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = replace(config, pretrain=replace(config.pretrain, precision=precision))
    words, peak = Words(config.tokenizer.vocab_size), peak_flops(device)
    batch = synthetic_batch(config, words, size, tokens, device)
    if variant == "official" and official is not None:
        from benchmarks.official import step_of

        batch["image"] = batch["image"].float().div(255).sub(0.5).div(0.25)
        step = step_of(official, batch, precision, device)
        losses = [step()]
    else:
        loop = loop_of(config, words, variant, size, device)
        losses = []

        def step() -> None:
            loop.train_step([batch])

    seconds = measure(step, device, steps, warmup)
    mfu = 100 * GFLOP_PER_SAMPLE * 1e9 * size / seconds / peak
    waits = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        waits = synchronizations(step)
        memory = torch.cuda.max_memory_reserved() / 2**30
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    kinds = ", ".join(f"{kind} {ms:.1f}" for kind, ms in breakdown(step, device, kernels).items())
    loss = losses[0] if losses else loop.step.read()[0]["loss"]
    numbers = (f"{x:.1f}" for x in (1e3 * seconds, size / seconds, mfu, memory))
    row = [size, precision, variant, *numbers, waits, f"{loss:.3f}"]
    print(table(HEADER, [row]).splitlines()[-1], kinds, flush=True)
    return row


def _row_of(preset: str, *arguments: Any) -> list[Any]:
    torch.set_num_threads(os.cpu_count() or 1)
    return row_of(from_dict(YAML(typ="safe").load(presets.content(preset)), Config, preset), *arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper-4m")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["bf16"])
    parser.add_argument("--variants", nargs="*", choices=["eager", "compiled", "graph"], default=["eager", "graph"])
    parser.add_argument("--official", type=Path, help="checkout of the official code, whose step is measured too")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--kernels", type=int, default=0, help="number of slowest kernels to print")
    args = parser.parse_args()
    official = None if args.official is None else args.official.resolve()
    variants = [*(["official"] if official else []), *args.variants]
    settings = (args.steps, args.warmup, args.tokens, args.kernels, official)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        cases = itertools.product(args.batch_size, args.precision, variants)
        rows = [pool.submit(_row_of, args.preset, *case, *settings).result() for case in cases]
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"\n{name}, torch {torch.__version__}\n\n{table(HEADER, rows)}")


if __name__ == "__main__":
    main()
