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
import triton.language as tl
from torch import Tensor

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


@triton.jit
def _kept(seed, index, threshold):
    """Return whether dropout keeps each element: a hash of its index (Wellons' lowbias32) is above the threshold."""
    x = index.to(tl.uint32) * 0x9E3779B9 + seed.to(tl.uint32)
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return (x ^ (x >> 16)) >= threshold.to(tl.uint32)


@triton.jit
def _forward(
    q, k, v, out, lse, rows, mask, seed,
    q_row, q_token, q_head, kv_row, kv_token, kv_head, out_row, out_token, out_head,
    heads, queries, keys, scale, threshold, rescale,
    ROWS: tl.constexpr, MASK: tl.constexpr, DROPOUT: tl.constexpr, FIRST: tl.constexpr,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    text, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    image = tl.load(rows + text) if ROWS else text
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, D)
    q_at = q + text.to(tl.int64) * q_row + head * q_head
    kv_at = image.to(tl.int64) * kv_row + head * kv_head
    query = tl.load(q_at + m[:, None] * q_token + d[None, :], mask=m[:, None] < queries, other=0.0)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mixed = tl.zeros([BLOCK_M, D], tl.float32)
    if FIRST:
        top = tl.sum(query.to(tl.float32) * tl.load(k + kv_at + d).to(tl.float32)[None, :], 1) * scale
        total += 1.0
        weight = total
        if DROPOUT:
            index_0 = (tl.program_id(1) * queries + m) * keys
            weight = tl.where(_kept(tl.load(seed), index_0, threshold), rescale, 0.0)
        mixed = weight[:, None] * tl.load(v + kv_at + d).to(tl.float32)[None, :]
    for start in range(FIRST, keys, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        if FIRST:
            key = tl.load(k + kv_at + n[None, :] * kv_token + d[:, None])
            value = tl.load(v + kv_at + n[:, None] * kv_token + d[None, :])
            scores = tl.dot(query, key) * scale
        else:
            key = tl.load(k + kv_at + n[None, :] * kv_token + d[:, None], mask=n[None, :] < keys, other=0.0)
            value = tl.load(v + kv_at + n[:, None] * kv_token + d[None, :], mask=n[:, None] < keys, other=0.0)
            visible = n < keys
            if MASK:
                visible = visible & (tl.load(mask + text * keys + n, mask=visible, other=0) != 0)
            scores = tl.where(visible[None, :], tl.dot(query, key) * scale, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shrink = tl.exp2(top - higher)
        probability = tl.exp2(scores - higher[:, None])
        total = total * shrink + tl.sum(probability, 1)
        if DROPOUT:
            index = (tl.program_id(1) * queries + m[:, None]) * keys + n[None, :]
            probability = tl.where(_kept(tl.load(seed), index, threshold), probability * rescale, 0.0)
        mixed = tl.dot(probability.to(value.dtype), value, mixed * shrink[:, None])
        top = higher
    inside = m < queries
    out_at = out + text.to(tl.int64) * out_row + head * out_head + m[:, None] * out_token + d[None, :]
    tl.store(out_at, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])
    tl.store(lse + tl.program_id(1) * queries + m, top + tl.log2(total), mask=inside)


@triton.jit
def _backward_queries(
    grad, q, k, v, out, lse, delta, dq, rows, mask, seed,
    q_row, q_token, q_head, kv_row, kv_token, kv_head, out_row, out_token, out_head, dq_row, dq_token, dq_head,
    heads, queries, keys, scale, score_scale, threshold, rescale,
    ROWS: tl.constexpr, MASK: tl.constexpr, DROPOUT: tl.constexpr, FIRST: tl.constexpr,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    text, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    image = tl.load(rows + text) if ROWS else text
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, D)
    inside = m < queries
    q_at = q + text.to(tl.int64) * q_row + head * q_head
    kv_at = image.to(tl.int64) * kv_row + head * kv_head
    out_at = text.to(tl.int64) * out_row + head * out_head + m[:, None] * out_token + d[None, :]
    query = tl.load(q_at + m[:, None] * q_token + d[None, :], mask=inside[:, None], other=0.0)
    gradient = tl.load(grad + out_at, mask=inside[:, None], other=0.0)
    result = tl.load(out + out_at, mask=inside[:, None], other=0.0)
    dot = tl.sum(gradient.to(tl.float32) * result.to(tl.float32), 1)
    tl.store(delta + tl.program_id(1) * queries + m, dot, mask=inside)
    norm = tl.load(lse + tl.program_id(1) * queries + m, mask=inside, other=float("inf"))
    change = tl.zeros([BLOCK_M, D], tl.float32)
    if FIRST:
        key_0 = tl.load(k + kv_at + d).to(tl.float32)[None, :]
        wanted_0 = tl.sum(gradient.to(tl.float32) * tl.load(v + kv_at + d).to(tl.float32)[None, :], 1)
        if DROPOUT:
            index_0 = (tl.program_id(1) * queries + m) * keys
            wanted_0 = tl.where(_kept(tl.load(seed), index_0, threshold), wanted_0 * rescale, 0.0)
        probability_0 = tl.exp2(tl.sum(query.to(tl.float32) * key_0, 1) * scale - norm)
        change = (probability_0 * (wanted_0 - dot))[:, None] * key_0
    for start in range(FIRST, keys, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        if FIRST:
            key = tl.load(k + kv_at + n[None, :] * kv_token + d[:, None])
            value = tl.load(v + kv_at + n[None, :] * kv_token + d[:, None])
            scores = tl.dot(query, key) * scale
        else:
            key = tl.load(k + kv_at + n[None, :] * kv_token + d[:, None], mask=n[None, :] < keys, other=0.0)
            value = tl.load(v + kv_at + n[None, :] * kv_token + d[:, None], mask=n[None, :] < keys, other=0.0)
            visible = n < keys
            if MASK:
                visible = visible & (tl.load(mask + text * keys + n, mask=visible, other=0) != 0)
            scores = tl.where(visible[None, :], tl.dot(query, key) * scale, float("-inf"))
        probability = tl.exp2(scores - norm[:, None])
        wanted = tl.dot(gradient, value)
        if DROPOUT:
            index = (tl.program_id(1) * queries + m[:, None]) * keys + n[None, :]
            wanted = tl.where(_kept(tl.load(seed), index, threshold), wanted * rescale, 0.0)
        slope = probability * (wanted - dot[:, None])
        change = tl.dot(slope.to(key.dtype), tl.trans(key), change)
    dq_at = dq + text.to(tl.int64) * dq_row + head * dq_head + m[:, None] * dq_token + d[None, :]
    tl.store(dq_at, (change * score_scale).to(dq.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _backward_keys(
    grad, q, k, v, lse, delta, dk, dv, order, offsets, mask, seed,
    q_row, q_token, q_head, kv_row, kv_token, kv_head, out_row, out_token, out_head, dkv_row, dkv_token, dkv_head,
    heads, queries, keys, scale, score_scale, threshold, rescale,
    ROWS: tl.constexpr, MASK: tl.constexpr, DROPOUT: tl.constexpr, FIRST: tl.constexpr,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    image, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.arange(0, D)
    kv_at = image.to(tl.int64) * kv_row + head * kv_head + n[:, None] * kv_token + d[None, :]
    key = tl.load(k + kv_at, mask=n[:, None] < keys, other=0.0)
    value = tl.load(v + kv_at, mask=n[:, None] < keys, other=0.0)
    change_k = tl.zeros([BLOCK_N, D], tl.float32)
    change_v = tl.zeros([BLOCK_N, D], tl.float32)
    first = tl.load(offsets + image) if ROWS else image
    last = tl.load(offsets + image + 1) if ROWS else image + 1
    for place in range(first, last):
        text = tl.load(order + place).to(tl.int32) if ROWS else place
        number = text * heads + head
        q_at = q + text.to(tl.int64) * q_row + head * q_head
        grad_at = grad + text.to(tl.int64) * out_row + head * out_head
        visible = n < keys
        if MASK:
            visible = visible & (tl.load(mask + text * keys + n, mask=visible, other=0) != 0)
        if FIRST:
            query_0 = tl.load(q_at + d).to(tl.float32)[None, :]
            gradient_0 = tl.load(grad_at + d).to(tl.float32)[None, :]
            scores_0 = tl.where(visible, tl.sum(key.to(tl.float32) * query_0, 1) * scale, float("-inf"))
            probability_0 = tl.exp2(scores_0 - tl.load(lse + number * queries))
            wanted_0 = tl.sum(value.to(tl.float32) * gradient_0, 1)
            mixed_0 = probability_0
            if DROPOUT:
                kept_0 = _kept(tl.load(seed), number * queries * keys + n, threshold)
                wanted_0 = tl.where(kept_0, wanted_0 * rescale, 0.0)
                mixed_0 = tl.where(kept_0, probability_0 * rescale, 0.0)
            change_v += mixed_0[:, None] * gradient_0
            change_k += (probability_0 * (wanted_0 - tl.load(delta + number * queries)))[:, None] * query_0
        for start in range(FIRST, queries, BLOCK_M):
            m = start + tl.arange(0, BLOCK_M)
            if FIRST:
                query = tl.load(q_at + m[:, None] * q_token + d[None, :])
                gradient = tl.load(grad_at + m[:, None] * out_token + d[None, :])
                norm = tl.load(lse + number * queries + m)
                dot = tl.load(delta + number * queries + m)
            else:
                inside = m < queries
                query = tl.load(q_at + m[:, None] * q_token + d[None, :], mask=inside[:, None], other=0.0)
                gradient = tl.load(grad_at + m[:, None] * out_token + d[None, :], mask=inside[:, None], other=0.0)
                norm = tl.load(lse + number * queries + m, mask=inside, other=float("inf"))
                dot = tl.load(delta + number * queries + m, mask=inside, other=0.0)
            scores = tl.where(visible[:, None], tl.dot(key, tl.trans(query)) * scale, float("-inf"))
            probability = tl.exp2(scores - norm[None, :])
            wanted = tl.dot(value, tl.trans(gradient))
            mixed = probability
            if DROPOUT:
                index = (number * queries + m[None, :]) * keys + n[:, None]
                kept = _kept(tl.load(seed), index, threshold)
                wanted = tl.where(kept, wanted * rescale, 0.0)
                mixed = tl.where(kept, probability * rescale, 0.0)
            change_v = tl.dot(mixed.to(gradient.dtype), gradient, change_v)
            slope = probability * (wanted - dot[None, :])
            change_k = tl.dot(slope.to(query.dtype), query, change_k)
    dkv_at = image.to(tl.int64) * dkv_row + head * dkv_head + n[:, None] * dkv_token + d[None, :]
    tl.store(dk + dkv_at, (change_k * score_scale).to(dk.dtype.element_ty), mask=n[:, None] < keys)
    tl.store(dv + dkv_at, change_v.to(dv.dtype.element_ty), mask=n[:, None] < keys)


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


def _first(tokens: int, block: int, mask: Tensor | None) -> int:
    """Return 1 if one token is treated apart from the blocks: an image has its [CLS] besides its patches."""
    return int(mask is None and tokens > block and tokens % block == 1)


def _tiles(kernel: str, queries: int, keys: int) -> Blocks:
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
    blocks = _tiles("forward", queries, k.shape[1])
    _forward[(triton.cdiv(queries, blocks.queries), count * heads)](
        q, k, v, out, lse, rows, mask, seed, *q.stride()[:3], *k.stride()[:3], *out.stride()[:3],
        **_options(q, k.shape[1], rows, mask, dropout), **_launch(blocks),
        FIRST=_first(k.shape[1], blocks.keys, mask),
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
    blocks = _tiles("backward_queries", queries, keys)
    _backward_queries[(triton.cdiv(queries, blocks.queries), count * heads)](
        grad, q, k, v, out, lse, delta, dq, rows, mask, seed, *strides, *dq.stride()[:3],
        **options, **_launch(blocks), FIRST=_first(keys, blocks.keys, mask),
    )  # fmt: skip
    blocks = _tiles("backward_keys", queries, keys)
    _backward_keys[(triton.cdiv(keys, blocks.keys), images * heads)](
        grad, q, k, v, lse, delta, dk, dv, order, offsets, mask, seed, *strides, *dk.stride()[:3],
        **options, **_launch(blocks), FIRST=_first(queries, blocks.queries, mask),
    )  # fmt: skip


@torch.library.custom_op("albef::self_attention", mutates_args=())
def self_attention(qkv: Tensor, mask: Tensor | None, seed: Tensor | None, dropout: float) -> tuple[Tensor, Tensor]:
    """Return self-attention of packed queries, keys and values ``(T, N, 3, H, D)``; see `forward`."""
    return forward(*qkv.unbind(2), None, mask, seed, dropout)


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
    """Return attention of ``q (T, M, H, D)`` to packed keys and values ``(I, N, 2, H, D)``; see `forward`."""
    return forward(q, *kv.unbind(2), rows, None, seed, dropout)


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
