"""Building blocks of BERT: embeddings, attention, feed-forward, MLM head.

B = texts, L = text tokens, N = key tokens, W = width, H = heads, D = W / H, V = vocabulary.

Self-attention keeps one matrix for query, key and value, and cross-attention one for key and value: fewer, larger
products. Cross-attention's keys and values are a call of their own, so that an image's are projected once and shared
by every text that looks at it.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef.config import TextConfig

LAYER_NORM_EPS = 1e-12

KeysValues = tuple[Tensor, Tensor]
"""Projected keys and values, each ``(B, H, N, D)``."""


class Embeddings(nn.Module):
    """Word + position + token-type embeddings, normalised."""

    def __init__(self, config: TextConfig, vocab_size: int) -> None:
        super().__init__()
        self.word = nn.Embedding(vocab_size, config.width)
        self.position = nn.Embedding(config.max_positions, config.width)
        self.token_type = nn.Embedding(2, config.width)
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embed token ids ``(B, L)`` as ``(B, L, W)``; all tokens are of type 0."""
        length = input_ids.shape[1]
        if length > len(self.position.weight):
            raise ValueError(f"a text of {length} tokens, but model.text.max_positions is {len(self.position.weight)}")
        states = self.word(input_ids) + self.token_type.weight[0] + self.position.weight[:length]
        return cast(Tensor, self.dropout(self.norm(states)))


class SelfAttention(nn.Module):
    """Multi-head self-attention with residual and post-normalisation."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.dropout = config.dropout

    def forward(self, states: Tensor, mask: Tensor | None, cls_only: bool = False) -> Tensor:
        """Attend within ``states`` ``(B, L, W)``: to all, or where ``mask (B, 1, 1, L)`` is True.

        With ``cls_only`` the only query is the first token, and the result is ``(B, 1, W)``.
        """
        width = states.shape[-1]
        if cls_only:
            query = F.linear(states[:, :1], self.qkv.weight[:width], self.qkv.bias[:width])
            key, value = F.linear(states, self.qkv.weight[width:], self.qkv.bias[width:]).chunk(2, dim=-1)
            states = states[:, :1]
        else:
            query, key, value = self.qkv(states).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        mixed = F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return cast(Tensor, self.norm(mixed + states))


class CrossAttention(nn.Module):
    """Multi-head attention of a text to projected image tokens, with residual and post-normalisation."""

    def __init__(self, config: TextConfig, key_width: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(key_width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.dropout = config.dropout

    def keys_values(self, tokens: Tensor) -> KeysValues:
        """Project ``tokens`` ``(B, N, key width)`` once for all the texts that attend to them."""
        key, value = self.key_value(tokens).unflatten(-1, (2 * self.heads, -1)).transpose(1, 2).chunk(2, dim=1)
        return key, value

    def forward(self, states: Tensor, keys_values: KeysValues, mask: Tensor | None = None) -> Tensor:
        """Attend from ``states`` ``(B, L, W)`` to ``keys_values``: to all, or where ``mask (B, 1, 1, N)`` is True."""
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(self.queries(states), *keys_values, attn_mask=mask, dropout_p=dropout)
        return self.finish(mixed, states)

    def queries(self, states: Tensor) -> Tensor:
        """Project ``states`` ``(B, L, W)`` to queries ``(B, H, L, D)``."""
        return cast(Tensor, self.query(states).unflatten(-1, (self.heads, -1)).transpose(1, 2))

    def finish(self, mixed: Tensor, states: Tensor) -> Tensor:
        """What follows the attention: values mixed to ``(B, H, L, D)`` are projected and added to ``states``."""
        mixed = F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return cast(Tensor, self.norm(mixed + states))


class FeedForward(nn.Module):
    """Two linear maps around a GELU, with residual and post-normalisation."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.width, config.ffn)
        self.out = nn.Linear(config.ffn, config.width)
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.dropout = config.dropout

    def forward(self, states: Tensor) -> Tensor:
        """Map ``(B, L, W)`` to ``(B, L, W)``."""
        inner = F.dropout(self.out(F.gelu(self.inner(states))), self.dropout, self.training)
        return cast(Tensor, self.norm(inner + states))


class MLMHead(nn.Module):
    """Word scores of masked positions; the output matrix is the word embedding's."""

    def __init__(self, config: TextConfig, vocab_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, states: Tensor, word_weight: Tensor) -> Tensor:
        """Score ``states`` ``(..., W)`` against the word embeddings ``(V, W)``: logits ``(..., V)``."""
        return F.linear(self.norm(F.gelu(self.dense(states))), word_weight, self.bias)


def init_transformer(module: nn.Module) -> None:
    """Initialise linear maps and embeddings from a normal distribution, biases with zero. For ``Module.apply``.

    The deviation is BERT's and ViT's 0.02 at their width of 768 and grows as 1 / sqrt(width) below: a map of a narrow
    model then passes on as much signal as the same map of the full one. With 0.02 at width 128 the [CLS] features of
    all inputs are nearly equal, and ITC stays at chance for hundreds of steps.
    """
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02 * (768 / min(module.weight.shape)) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


def key_mask(attention_mask: Tensor) -> Tensor:
    """Boolean mask ``(B, 1, 1, L)`` of the tokens that may be attended to, from a 0/1 mask ``(B, L)``."""
    return attention_mask.bool()[:, None, None, :]
