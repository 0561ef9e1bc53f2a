"""Attention in bf16 at the sizes of pretraining: ours beside that of torch.

python -m benchmarks.attention --batch-size 64 256
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from albef.models import attention
from albef.models.attention import ImageRows
from benchmarks.load.loop import table
from benchmarks.step import measure

HEADS, WIDTH, PATCHES, WORDS = 12, 64, 257, 30
BACKENDS = {
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LAUNCHES = ((2, 2), (4, 2), (4, 3), (8, 3))
SWEEP = {
    "image": [(64, 32), (64, 64), (64, 128), (128, 32), (128, 64)],
    "text": [(32, 32)],
    "cross": [(32, 32), (32, 64), (32, 128)],
}
"""Tile sizes to try, queries and keys; with each of the numbers of warps and stages."""


@dataclass(frozen=True)
class Workload:
    """Attention of one layer: a function of tensors that need gradients."""

    name: str
    inputs: list[Tensor]
    run: Callable[..., Tensor]


def workloads(batch: int) -> list[Workload]:
    """Return the attention of a ViT block, of a text layer, and of texts to images."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16).requires_grad_()

    mask = torch.ones(2 * batch, WORDS, dtype=torch.bool, device=DEVICE)
    mask[::2, WORDS // 2 :] = False
    rows = torch.cat([torch.arange(batch), torch.randint(batch, (batch,)), torch.arange(batch).repeat(2)]).to(DEVICE)
    places = ImageRows.of(rows, batch)
    return [
        Workload("image", [draw(batch, PATCHES, 3, HEADS, WIDTH)], attention.self_attention),
        Workload(
            "text",
            [draw(2 * batch, WORDS, 3, HEADS, WIDTH)],
            lambda qkv: attention.self_attention(qkv, mask, 0.1),
        ),
        Workload(
            "cross",
            [draw(4 * batch, WORDS, HEADS, WIDTH), draw(batch, PATCHES, 2, HEADS, WIDTH)],
            lambda query, keys_values: attention.cross_attention(query, keys_values, places, 0.1),
        ),
    ]


def times(work: Workload) -> tuple[float, float]:
    """Return the median milliseconds of the forward and of the backward pass."""
    with torch.no_grad():
        forward = _median(lambda: work.run(*work.inputs))
    out = work.run(*work.inputs)
    gradient = torch.randn_like(out)  # not zeros, which multiply faster
    return forward, _median(lambda: torch.autograd.grad(out, work.inputs, gradient, retain_graph=True))


def _median(run: Callable[[], Any]) -> float:
    if DEVICE.type == "cpu":
        return 1e3 * measure(run, DEVICE, steps=9, warmup=2)
    from triton.testing import do_bench

    return float(do_bench(run, warmup=5, rep=25, return_mode="median"))


def compare(batch: int) -> list[list[Any]]:
    """Return rows of a table: forward and backward milliseconds of every workload and implementation."""
    rows: list[list[Any]] = []
    for work in workloads(batch):
        rows.append([batch, work.name, "ours", *(f"{ms:.3f}" for ms in times(work))])
        for name, backend in BACKENDS.items():
            try:
                by_torch = mock.patch.object(attention, "dot_product", F.scaled_dot_product_attention)
                with attention.torch_only(), by_torch, sdpa_kernel(backend):
                    rows.append([batch, work.name, name, *(f"{ms:.3f}" for ms in times(work))])
            except RuntimeError:  # the backend does not support masks or dropout
                continue
    return rows


def sweep(batch: int) -> list[list[Any]]:
    """Return the three fastest tile sizes of every kernel and workload."""
    from albef.models.triton_attention import TILES, Blocks

    rows: list[list[Any]] = []
    for work in workloads(batch):
        short = {"image": (False, False), "text": (True, True), "cross": (True, False)}[work.name]
        for kernel, part in (("forward", 0), ("backward_queries", 1), ("backward_keys", 1)):
            before, found = TILES[kernel, *short], []
            for sizes in itertools.product(SWEEP[work.name], LAUNCHES):
                TILES[kernel, *short] = Blocks(*sizes[0], *sizes[1])
                try:
                    found.append((times(work)[part], (*sizes[0], *sizes[1])))
                except Exception:  # too much shared memory or too many registers
                    continue
            TILES[kernel, *short] = before
            if found:
                best = sorted(found)[:3]
                TILES[kernel, *short] = Blocks(*best[0][1])
                rows += [[batch, work.name, kernel, sizes, f"{ms:.3f}"] for ms, sizes in best]
        rows.append([batch, work.name, "all best", "", " + ".join(f"{ms:.3f}" for ms in times(work))])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--sweep", action="store_true", help="try tile sizes of our kernels")
    args = parser.parse_args()
    print(torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU", "torch", torch.__version__)
    for size in args.batch_size:
        if args.sweep:
            print(
                table(["batch", "attention", "kernel", "queries, keys, warps, stages", "ms"], sweep(size)), flush=True
            )
        else:
            print(
                table(["batch", "attention", "implementation", "forward ms", "backward ms"], compare(size)), flush=True
            )


if __name__ == "__main__":
    main()
