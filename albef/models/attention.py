"""Attention: own Triton kernels for packed projections on GPUs, torch elsewhere.

T = texts, I = images, M = queries, N = keys, H = heads, D = width of a head.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_HEAD_WIDTHS = (16, 32, 64, 128)
_kernels = importlib.util.find_spec("triton") is not None


class ImageRows(NamedTuple):
    """Image of each text, and the texts of each image.

    Attributes:
        rows: Image of each text ``(T,)``.
        order: Texts ordered by image ``(T,)``.
        offsets: Place of each image's first text in ``order``, and T ``(I + 1,)``.
    """

    rows: Tensor
    order: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, rows: Tensor, images: int) -> ImageRows:
        """Sort texts by image; ``rows (T,)`` holds the image of each text."""
        ordered, order = rows.sort(stable=True)
        return cls(rows, order, torch.searchsorted(ordered, torch.arange(images + 1, device=rows.device)))


@contextmanager
def torch_only() -> Iterator[None]:
    """Use no Triton kernels."""
    global _kernels
    before, _kernels = _kernels, False
    try:
        yield
    finally:
        _kernels = before


def fits_kernels(packed: Tensor) -> bool:
    """Return whether the kernels support packed projections ``(..., H, D)``."""
    half = packed.dtype in (torch.bfloat16, torch.float16)
    return _kernels and packed.is_cuda and half and packed.shape[-1] in _HEAD_WIDTHS


def dot_product(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Return attention ``(T, H, M, D)`` by torch.

    Args:
        query: ``(T, H, M, D)``.
        key: ``(T, H, N, D)``.
        value: ``(T, H, N, D)``.
        mask: Boolean, broadcastable to ``(T, H, M, N)``, True where a token may be attended to; None for all.
        dropout: Probability of dropping an attention weight.
    """
    if not query.is_cpu or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, mask, dropout)
    # torch's fused kernel for CPUs is slow in bf16: with its backward pass twice as slow as products for 257 tokens,
    # eight times for 20 (benchmarks/attention.py).
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return F.dropout(scores.softmax(-1), dropout) @ value


def self_attention(qkv: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Return self-attention ``(T, N, H, D)``.

    Args:
        qkv: Queries, keys and values ``(T, N, 3, H, D)``.
        mask: Boolean ``(T, N)``, True where a token may be attended to; None for all.
        dropout: Probability of dropping an attention weight.
    """
    if fits_kernels(qkv):
        from albef.models import triton_attention

        mask = None if mask is None else mask.contiguous()
        mixed: Tensor = triton_attention.self_attention(qkv.contiguous(), mask, _seed(qkv, dropout), dropout)[0]
        return mixed
    query, key, value = qkv.transpose(1, 3).unbind(2)
    keys = None if mask is None else mask[:, None, None]
    return dot_product(query, key, value, keys, dropout).transpose(1, 2)


def cross_attention(query: Tensor, keys_values: Tensor, rows: ImageRows | None = None, dropout: float = 0.0) -> Tensor:
    """Return attention ``(T, M, H, D)`` of texts to images.

    Args:
        query: ``(T, M, H, D)``.
        keys_values: Keys and values ``(I, N, 2, H, D)``.
        rows: Image of each text; None: text i attends to image i.
        dropout: Probability of dropping an attention weight.
    """
    if fits_kernels(keys_values):
        from albef.models import triton_attention

        places = (None, None, None) if rows is None else (rows.rows, rows.order, rows.offsets)
        mixed: Tensor = triton_attention.cross_attention(
            query.contiguous(), keys_values.contiguous(), *places, _seed(query, dropout), dropout
        )[0]
        return mixed
    if rows is not None and query.is_cpu and not torch.compiler.is_compiling():
        return _by_image(query, keys_values, rows, dropout)
    if rows is not None:
        keys_values = keys_values.index_select(0, rows.rows)
    key, value = keys_values.transpose(1, 3).unbind(2)
    return dot_product(query.transpose(1, 2), key, value, None, dropout).transpose(1, 2)


def _by_image(query: Tensor, keys_values: Tensor, rows: ImageRows, dropout: float) -> Tensor:
    """Return `cross_attention` with the queries of all texts of an image side by side.

    An image has many more tokens than a text, so this copies less than repeating keys and values for each text. Its
    shapes depend on the rows.
    """
    images, texts = len(keys_values), len(query)
    most = int(rows.offsets.diff().max())
    image = rows.rows[rows.order]
    slots = torch.arange(texts, device=query.device) - rows.offsets[image]
    places = torch.empty_like(rows.order).scatter_(0, rows.order, image * most + slots)
    grouped = query.new_zeros(images * most, *query.shape[1:]).index_copy(0, places, query)
    mixed = cross_attention(grouped.view(images, -1, *query.shape[2:]), keys_values, None, dropout)
    return mixed.reshape(grouped.shape).index_select(0, places)


def _seed(like: Tensor, dropout: float) -> Tensor | None:
    return torch.randint(2**31 - 1, (1,), device=like.device) if dropout else None
