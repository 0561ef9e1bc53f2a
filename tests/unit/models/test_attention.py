"""Tests of attention: the Triton kernels against torch, by Triton's interpreter without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from albef.models import attention
from albef.models.attention import ImageRows
from tests import ROOT
from tests.devices import DEVICE, needs_gpu


def test_texts_of_each_image() -> None:
    rows = ImageRows.of(torch.tensor([2, 0, 2, 0, 0]), 4)
    assert rows.order.tolist() == [1, 3, 4, 0, 2]
    assert rows.offsets.tolist() == [0, 3, 3, 5, 5]


def test_each_text_attends_to_its_image() -> None:
    query, keys_values = torch.randn(3, 5, 2, 16), torch.randn(2, 9, 2, 2, 16)
    rows = torch.tensor([1, 1, 0])
    mixed = attention.cross_attention(query, keys_values, ImageRows.of(rows, 2))
    for text, image in enumerate(rows.tolist()):
        alone = attention.cross_attention(query[text : text + 1], keys_values[image : image + 1])
        torch.testing.assert_close(mixed[text : text + 1], alone)


def _gradients(run: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    out = run(*inputs)
    torch.manual_seed(1)
    gradient = torch.randn(out.shape, device=out.device, dtype=out.dtype)  # drawn in the same order for all strides
    return [out, *torch.autograd.grad(out, inputs, gradient)]


def _compare(run: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
    """Compare kernels in bf16 with torch in fp32, by the error of torch in bf16."""
    torch.manual_seed(0)
    inputs = [torch.randn(shape, device=DEVICE, dtype=torch.bfloat16).requires_grad_() for shape in shapes]
    ours = _gradients(run, *inputs)
    with attention.torch_only():
        torchs = _gradients(run, *inputs)
        exact = _gradients(run, *(value.detach().float().requires_grad_() for value in inputs))
    for mine, other, true in zip(ours, torchs, exact, strict=True):
        scale = true.norm()
        assert (mine.float() - true).norm() / scale < max(2 * (other.float() - true).norm() / scale, 4e-3)


@pytest.mark.parametrize(("queries", "keys"), [(1, 257), (20, 20), (30, 257)])
def test_products_on_cpus_in_bf16(queries: int, keys: int) -> None:
    torch.manual_seed(0)
    shapes = ((3, 2, queries, 32), (3, 2, keys, 32), (3, 2, keys, 32))
    inputs = [torch.randn(shape, dtype=torch.bfloat16).requires_grad_() for shape in shapes]
    mask = torch.ones(3, 1, 1, keys, dtype=torch.bool)
    mask[1, ..., keys // 2 :] = False
    ours = _gradients(lambda *states: attention.dot_product(*states, mask), *inputs)
    fused = _gradients(lambda *states: F.scaled_dot_product_attention(*states, mask), *inputs)
    exact = _gradients(
        lambda *states: attention.dot_product(*states, mask),
        *(value.detach().float().requires_grad_() for value in inputs),
    )
    for mine, other, true in zip(ours, fused, exact, strict=True):
        assert mine.dtype == torch.bfloat16
        scale = true.norm()
        assert (mine.float() - true).norm() / scale < max(2 * (other.float() - true).norm() / scale, 1e-2)
    assert not ours[2][1, :, keys // 2 :].any()  # no gradient reaches what is masked

    query, key, value = inputs[0], inputs[1], torch.ones_like(inputs[2])
    dropped = attention.dot_product(query, key, value, None, 0.5).detach().float()
    assert dropped.std() > 0.01
    assert dropped.mean() == pytest.approx(1.0, abs=0.2)


@needs_gpu
@pytest.mark.parametrize("tokens", [17, 30, 64, 257, 577])
def test_kernels_of_self_attention(tokens: int) -> None:
    _compare(attention.self_attention, (3, tokens, 3, 2, 64))
    mask = torch.ones(3, tokens, dtype=torch.bool, device=DEVICE)
    mask[1, tokens // 2 :] = False
    _compare(lambda qkv: attention.self_attention(qkv, mask), (3, tokens, 3, 2, 64))


@needs_gpu
@pytest.mark.parametrize(("queries", "keys"), [(1, 257), (30, 257), (30, 50), (65, 129)])
def test_kernels_of_cross_attention(queries: int, keys: int) -> None:
    rows = ImageRows.of(torch.tensor([0, 1, 0, 2, 2, 2, 0], device=DEVICE), 4)
    _compare(lambda q, kv: attention.cross_attention(q, kv, rows), (7, queries, 2, 64), (4, keys, 2, 2, 64))
    _compare(attention.cross_attention, (4, queries, 2, 64), (4, keys, 2, 2, 64))


_INTERPRETED = """
import torch, torch.nn.functional as F
from albef.models import triton_attention as kernels

def gradients(run, *inputs):
    out = run(*inputs)
    torch.manual_seed(1)
    return out, *torch.autograd.grad(out, inputs, torch.randn(out.shape))

def check(ours, theirs, *shapes):
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    for mine, true in zip(gradients(ours, *inputs), gradients(theirs, *inputs), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-5)

def plain(q, k, v, weights=None, mask=None, scale=1.0):
    scores = torch.einsum("tmhd,tnhd->thmn", q, k) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], float("-inf"))
    probability = scores.softmax(-1)
    return torch.einsum("thmn,tnhd->tmhd", probability if weights is None else probability * weights * scale, v)

mask = torch.ones(3, 40, dtype=torch.bool)
mask[1, 20:] = False
masked = lambda x: plain(*x.unbind(2), mask=mask)
check(lambda x: kernels.self_attention(x, mask, None, 0.0)[0], masked, (3, 40, 3, 2, 16))
check(lambda x: kernels.self_attention(x, None, None, 0.0)[0], lambda x: plain(*x.unbind(2)), (2, 129, 3, 1, 32))

rows = torch.tensor([0, 2, 0, 2, 2])
order, offsets = rows.argsort(stable=True), torch.tensor([0, 2, 2, 5])
seed, rate = torch.tensor([1234]), 0.25
ones = torch.zeros(3, 65, 2, 2, 128)
ones[:, :, 1] = torch.eye(128)[:65, None]
kept = kernels.cross_attention(torch.zeros(5, 7, 2, 128), ones, rows, order, offsets, seed, rate)[0][..., :65]
kept = (kept > 0).float().permute(0, 2, 1, 3)  # which weights dropout keeps
assert abs(kept.mean() - (1 - rate)) < 0.02, kept.mean()
assert kept[0].ne(kept[2]).any() and kept[0, 0].ne(kept[0, 1]).any()
check(
    lambda q, kv: kernels.cross_attention(q, kv, rows, order, offsets, seed, rate)[0],
    lambda q, kv: plain(q, *kv[rows].unbind(2), weights=kept, scale=1 / (1 - rate)),
    (5, 7, 2, 16), (3, 65, 2, 2, 16),
)
"""


@pytest.mark.skipif(DEVICE.type == "cuda", reason="the kernels run on the GPU")
def test_kernels_in_the_interpreter() -> None:
    """Masks, dropout, several texts an image, a token apart from the blocks."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "ignore", "-c", _INTERPRETED]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
