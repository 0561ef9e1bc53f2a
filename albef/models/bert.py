"""Building blocks of BERT: embeddings, attention, feed-forward, MLM head.

B = texts, L = text tokens, N = key tokens, W = width, H = heads, D = W / H, V = vocabulary.

Self-attention uses one matrix for query, key and value, and cross-attention one for key and value: fewer, larger
matrix products. `CrossAttention.keys_values` is a separate call, so that an image is projected once for all texts that
attend to it.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef.config import TextConfig
from albef.models import attention
from albef.models.attention import ImageRows

KeysValues = tuple[Tensor, Tensor]
"""Projected keys and values, each ``(B, H, N, D)``."""


class Embeddings(nn.Module):
    """Sum of word, position and token-type embeddings, followed by layer normalization."""

    def __init__(self, config: TextConfig, vocab_size: int) -> None:
        super().__init__()
        self.word = nn.Embedding(vocab_size, config.width)
        self.position = nn.Embedding(config.max_positions, config.width)
        self.token_type = nn.Embedding(2, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embed token ids ``(B, L)`` as ``(B, L, W)``; all tokens have type 0.

        Raises:
            ValueError: If the texts are longer than ``max_positions``.
        """
        length = input_ids.shape[1]
        if length > len(self.position.weight):
            raise ValueError(
                f"model.text.max_positions: {len(self.position.weight)} is less than a text of {length} tokens; "
                "truncate texts or use a model with more positions"
            )
        states = self.word(input_ids) + self.token_type.weight[0] + self.position.weight[:length]
        return cast(Tensor, self.dropout(self.norm(states)))


class SelfAttention(nn.Module):
    """Multi-head self-attention with residual connection and post-normalization."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = config.dropout

    def forward(self, states: Tensor, mask: Tensor | None, cls_only: bool = False) -> Tensor:
        """Apply self-attention.

        Args:
            states: ``(B, L, W)``.
            mask: Boolean, broadcastable to ``(B, H, L, L)``, True where a token may be attended to; None for all.
            cls_only: Use only the first token as query.

        Returns:
            ``(B, L, W)``, or ``(B, 1, W)`` with ``cls_only``.
        """
        width, dropout = states.shape[-1], self.dropout if self.training else 0.0
        if not cls_only:
            packed = self.qkv(states)
            heads = packed.unflatten(-1, (3, self.heads, -1))
            if attention.fits_kernels(heads) and (mask is None or mask.shape[:-1] == (states.shape[0], 1, 1)):
                mixed = attention.self_attention(heads, None if mask is None else mask[:, 0, 0], dropout)
                return self._finish(mixed.flatten(2), states)
            query, key, value = packed.chunk(3, dim=-1)
        else:
            query = F.linear(states[:, :1], self.qkv.weight[:width], self.qkv.bias[:width])
            key, value = F.linear(states, self.qkv.weight[width:], self.qkv.bias[width:]).chunk(2, dim=-1)
            states = states[:, :1]
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        mixed = attention.dot_product(query, key, value, mask, dropout)
        return self._finish(mixed.transpose(1, 2).flatten(2), states)

    def _finish(self, mixed: Tensor, states: Tensor) -> Tensor:
        """Project attention output ``(B, L, W)``, add ``states`` and normalize."""
        mixed = F.dropout(self.out(mixed), self.dropout, self.training)
        return cast(Tensor, self.norm(mixed + states))


class CrossAttention(nn.Module):
    """Multi-head cross-attention to projected tokens, with residual connection and post-normalization."""

    def __init__(self, config: TextConfig, key_width: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(key_width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = config.dropout

    def keys_values(self, tokens: Tensor) -> KeysValues:
        """Project ``tokens`` ``(B, N, key width)`` to keys and values."""
        key, value = self.key_value(tokens).unflatten(-1, (2 * self.heads, -1)).transpose(1, 2).chunk(2, dim=1)
        return key, value

    def packed(self, tokens: Tensor) -> Tensor:
        """Project ``tokens`` ``(B, N, key width)`` to keys and values ``(B, N, 2, H, D)``."""
        return cast(Tensor, self.key_value(tokens).unflatten(-1, (2, self.heads, -1)))

    def attend(self, states: Tensor, packed: Tensor, rows: ImageRows | None = None) -> Tensor:
        """Apply cross-attention of ``states`` ``(B, L, W)`` to projections of `packed`.

        Args:
            rows: Image of each text; None: text i attends to image i.
        """
        query = self.query(states).unflatten(-1, (self.heads, -1))
        mixed = attention.cross_attention(query, packed, rows, self.dropout if self.training else 0.0)
        return self.finish(mixed.transpose(1, 2), states)

    def forward(self, states: Tensor, keys_values: KeysValues, mask: Tensor | None = None) -> Tensor:
        """Apply cross-attention.

        Args:
            states: Queries ``(B, L, W)``.
            keys_values: From `keys_values`.
            mask: Boolean ``(B, 1, 1, N)``, True where a token may be attended to; None for all.

        Returns:
            ``(B, L, W)``.
        """
        dropout = self.dropout if self.training else 0.0
        mixed = attention.dot_product(self.queries(states), *keys_values, mask, dropout)
        return self.finish(mixed, states)

    def queries(self, states: Tensor) -> Tensor:
        """Project ``states`` ``(B, L, W)`` to queries ``(B, H, L, D)``."""
        return cast(Tensor, self.query(states).unflatten(-1, (self.heads, -1)).transpose(1, 2))

    def finish(self, mixed: Tensor, states: Tensor) -> Tensor:
        """Project attention output ``(B, H, L, D)``, add ``states`` and normalize."""
        mixed = F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return cast(Tensor, self.norm(mixed + states))


class FeedForward(nn.Module):
    """Two linear layers around a GELU, with residual connection and post-normalization."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.width, config.ffn)
        self.out = nn.Linear(config.ffn, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = config.dropout

    def forward(self, states: Tensor) -> Tensor:
        """Map ``(B, L, W)`` to ``(B, L, W)``."""
        inner = F.dropout(self.out(F.gelu(self.inner(states))), self.dropout, self.training)
        return cast(Tensor, self.norm(inner + states))


class MLMHead(nn.Module):
    """Masked-language-modeling head; its output matrix is the word embedding."""

    def __init__(self, config: TextConfig, vocab_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, states: Tensor, word_weight: Tensor) -> Tensor:
        """Return logits ``(..., V)`` of ``states`` ``(..., W)``.

        Args:
            word_weight: Word embeddings ``(V, W)``.
        """
        states, words = self.norm(F.gelu(self.dense(states))), len(self.bias)
        if not states.is_cuda or words % 64 == 0:
            return F.linear(states, word_weight, self.bias)
        # Matrix products of odd sizes are several times slower on GPUs.
        missing = -words % 64
        return F.linear(states, F.pad(word_weight, (0, 0, 0, missing)), F.pad(self.bias, (0, missing)))[..., :words]


def init_transformer(module: nn.Module) -> None:
    """Initialize linear layers and embeddings from a normal distribution (for ``Module.apply``).

    Biases become zero. The standard deviation of linear layers is 0.02 at width 768, as in BERT and ViT, and scales
    with 1 / sqrt(width), so that narrow layers preserve the signal as well as the full model's. With 0.02 at width 128
    the [CLS] features of all inputs are nearly equal, and ITC stays at chance for hundreds of steps.
    """
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02 * (768 / min(module.weight.shape)) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


def key_mask(attention_mask: Tensor) -> Tensor:
    """Convert a 0/1 mask ``(B, L)`` to a boolean attention mask ``(B, 1, 1, L)``."""
    return attention_mask.bool()[:, None, None, :]
