"""Attention over short sequences as Triton kernels, for GPUs.

Libraries tune attention for thousands of tokens; an image has 257 here and a text 30. Inputs are the packed outputs of
one linear layer, so that nothing is transposed or copied, and gradients are written back packed. Matrix products are in
the type of the inputs, sums in fp32. Probabilities are recomputed in the backward pass from the logarithm of their sum
(FlashAttention-2, Dao 2023).

The operators are opaque to ``torch.compile``; `albef.models.attention` has their plain equivalents.

T = texts (or images, in their self-attention), I = images, M = queries, N = keys, H = heads, D = width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from albef.models import triton_kernels as kernels

_LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Blocks:
    """Tile sizes and launch options of a kernel."""

    queries: int
    keys: int
    warps: int
    stages: int


_SHORT = 32
TILES = {
    ("forward", True, True): Blocks(32, 32, 2, 2),
    ("forward", True, False): Blocks(32, 64, 4, 3),
    ("forward", False, False): Blocks(64, 64, 4, 3),
    ("backward_queries", True, True): Blocks(32, 32, 4, 3),
    ("backward_queries", True, False): Blocks(32, 32, 2, 2),
    ("backward_queries", False, False): Blocks(64, 32, 4, 3),
    ("backward_keys", True, True): Blocks(32, 32, 4, 3),
    ("backward_keys", True, False): Blocks(32, 64, 2, 2),
    ("backward_keys", False, False): Blocks(64, 64, 4, 3),
}
"""Tiles by kernel, and by whether queries and keys fit in 32; measured on an H200 (`benchmarks/attention.py`)."""


def _options(q: Tensor, keys: int, rows: Tensor | None, mask: Tensor | None, dropout: float) -> dict[str, Any]:
    """Return the arguments that all kernels share."""
    return {
        "heads": q.shape[2],
        "queries": q.shape[1],
        "keys": keys,
        "scale": q.shape[-1] ** -0.5 * _LOG2_E,
        "threshold": min(int(dropout * 2**32), 2**32 - 1),
        "rescale": 1.0 / (1.0 - dropout) if dropout else 1.0,
        "ROWS": rows is not None,
        "MASK": mask is not None,
        "DROPOUT": dropout > 0,
        "D": q.shape[-1],
    }


def first(tokens: int, block: int, mask: Tensor | None) -> int:
    """Return 1 if one token is treated apart from the blocks, else 0.

    An image has its [CLS] besides its patches.
    """
    return int(mask is None and tokens > block and tokens % block == 1)


def tiles(kernel: str, queries: int, keys: int) -> Blocks:
    """Return the tile sizes of a kernel for the numbers of queries and keys."""
    return TILES.get((kernel, queries <= _SHORT, keys <= _SHORT), TILES[kernel, False, False])


def _launch(blocks: Blocks) -> dict[str, Any]:
    return {
        "BLOCK_M": blocks.queries,
        "BLOCK_N": blocks.keys,
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
    }


def forward(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor | None, mask: Tensor | None, seed: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """Return mixed values ``(T, M, H, D)`` and log2 of the probabilities' sums ``(T, H, M)``.

    Args:
        q: ``(T, M, H, D)``, any strides with the last 1.
        k: ``(I, N, H, D)``, likewise.
        v: Likewise, with the strides of ``k``.
        rows: Image of each text ``(T,)``; None: text i attends to image i.
        mask: ``(T, N)``, True where a key may be attended to.
        seed: Integer tensor of one element, with dropout.
    """
    count, queries, heads, _ = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(count, heads, queries, dtype=torch.float32, device=q.device)
    blocks = tiles("forward", queries, k.shape[1])
    kernels.forward[(triton.cdiv(queries, blocks.queries), count * heads)](
        q, k, v, out, lse, rows, mask, seed, *q.stride()[:3], *k.stride()[:3], *out.stride()[:3],
        **_options(q, k.shape[1], rows, mask, dropout), **_launch(blocks),
        FIRST=first(k.shape[1], blocks.keys, mask),
    )  # fmt: skip
    return out, lse


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    into: tuple[Tensor, Tensor, Tensor],
    texts: tuple[Tensor, Tensor, Tensor] | None,
    mask: Tensor | None,
    seed: Tensor | None,
    dropout: float,
) -> None:
    """Write the gradients of `forward` to ``into``, tensors shaped like ``q``, ``k`` and ``v``.

    Args:
        texts: ``rows`` as in `forward`, texts ordered by image ``(T,)``, and offsets ``(I + 1,)`` of each image in
            this order.
    """
    grad = grad.contiguous()
    rows, order, offsets = texts or (None, None, None)
    count, queries, heads, _ = q.shape
    images, keys = k.shape[:2]
    dq, dk, dv = into
    delta = torch.empty_like(lse)
    strides = (*q.stride()[:3], *k.stride()[:3], *out.stride()[:3])
    options = {**_options(q, keys, rows, mask, dropout), "score_scale": q.shape[-1] ** -0.5}
    blocks = tiles("backward_queries", queries, keys)
    kernels.backward_queries[(triton.cdiv(queries, blocks.queries), count * heads)](
        grad, q, k, v, out, lse, delta, dq, rows, mask, seed, *strides, *dq.stride()[:3],
        **options, **_launch(blocks), FIRST=first(keys, blocks.keys, mask),
    )  # fmt: skip
    blocks = tiles("backward_keys", queries, keys)
    kernels.backward_keys[(triton.cdiv(keys, blocks.keys), images * heads)](
        grad, q, k, v, lse, delta, dk, dv, order, offsets, mask, seed, *strides, *dk.stride()[:3],
        **options, **_launch(blocks), FIRST=first(queries, blocks.queries, mask),
    )  # fmt: skip


@torch.library.custom_op("albef::self_attention", mutates_args=())
def self_attention(qkv: Tensor, mask: Tensor | None, seed: Tensor | None, dropout: float) -> tuple[Tensor, Tensor]:
    """Return self-attention of packed queries, keys and values ``(T, N, 3, H, D)``; see `forward`."""
    q, k, v = qkv.unbind(2)
    return forward(q, k, v, None, mask, seed, dropout)


@torch.library.custom_op("albef::self_attention_backward", mutates_args=())
def _self_attention_backward(
    grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, mask: Tensor | None, seed: Tensor | None, dropout: float
) -> Tensor:
    change = torch.empty_like(qkv)
    q, k, v = qkv.unbind(2)
    dq, dk, dv = change.unbind(2)
    backward(grad, q, k, v, out, lse, (dq, dk, dv), None, mask, seed, dropout)
    return change


@torch.library.custom_op("albef::cross_attention", mutates_args=())
def cross_attention(
    q: Tensor,
    kv: Tensor,
    rows: Tensor | None,
    order: Tensor | None,
    offsets: Tensor | None,
    seed: Tensor | None,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Return attention of ``q`` to packed keys and values.

    Args:
        q: ``(T, M, H, D)``.
        kv: ``(I, N, 2, H, D)``.
        rows, order, offsets: As in `albef.models.attention.ImageRows`.
        seed, dropout: As in `forward`.
    """
    k, v = kv.unbind(2)
    return forward(q, k, v, rows, None, seed, dropout)


@torch.library.custom_op("albef::cross_attention_backward", mutates_args=())
def _cross_attention_backward(
    grad: Tensor,
    q: Tensor,
    kv: Tensor,
    out: Tensor,
    lse: Tensor,
    rows: Tensor | None,
    order: Tensor | None,
    offsets: Tensor | None,
    seed: Tensor | None,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    change_q, change = torch.empty(q.shape, dtype=q.dtype, device=q.device), torch.empty_like(kv)
    texts = None if rows is None or order is None or offsets is None else (rows, order, offsets)
    k, v = kv.unbind(2)
    dk, dv = change.unbind(2)
    backward(grad, q, k, v, out, lse, (change_q, dk, dv), texts, None, seed, dropout)
    return change_q, change


@self_attention.register_fake
def _(qkv: Tensor, mask: Tensor | None, seed: Tensor | None, dropout: float) -> tuple[Tensor, Tensor]:
    count, tokens, _, heads, width = qkv.shape
    lse = qkv.new_empty(count, heads, tokens, dtype=torch.float32)
    return qkv.new_empty(count, tokens, heads, width), lse


@_self_attention_backward.register_fake
def _(grad: Tensor, qkv: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(qkv)


@cross_attention.register_fake
def _(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    count, queries, heads, _width = q.shape
    return q.new_empty(q.shape), q.new_empty(count, heads, queries, dtype=torch.float32)


@_cross_attention_backward.register_fake
def _(grad: Tensor, q: Tensor, kv: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), torch.empty_like(kv)


def _save_self(ctx: Any, inputs: Any, output: Any) -> None:
    qkv, mask, seed, ctx.dropout = inputs
    ctx.save_for_backward(qkv, mask, seed, *output)


def _self_gradients(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    qkv, mask, seed, out, lse = ctx.saved_tensors
    return _self_attention_backward(grad, qkv, out, lse, mask, seed, ctx.dropout), None, None, None


def _save_cross(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.dropout = inputs
    ctx.save_for_backward(*tensors, *output)


def _cross_gradients(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    q, kv, rows, order, offsets, seed, out, lse = ctx.saved_tensors
    change = _cross_attention_backward(grad, q, kv, out, lse, rows, order, offsets, seed, ctx.dropout)
    return *change, None, None, None, None, None


torch.library.register_autograd("albef::self_attention", _self_gradients, setup_context=_save_self)
torch.library.register_autograd("albef::cross_attention", _cross_gradients, setup_context=_save_cross)
