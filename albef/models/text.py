"""Text encoder and fusion encoder: the first and the second half of a BERT (paper section 3.1).

B = texts, L = text tokens, I = images, N = image tokens, W = width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from albef.config import TextConfig
from albef.models.bert import (
    CrossAttention,
    Embeddings,
    FeedForward,
    KeysValues,
    SelfAttention,
    init_transformer,
    key_mask,
)


class TextLayer(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Map ``(B, L, W)`` to ``(B, L, W)``."""
        out: Tensor = self.feed_forward(self.attention(states, mask))
        return out


class TextEncoder(nn.Module):
    """Unimodal text encoder."""

    def __init__(self, config: TextConfig, vocab_size: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(config, vocab_size)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.layers))
        self.apply(init_transformer)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode token ids ``(B, L)`` with a 0/1 mask ``(B, L)`` as states ``(B, L, W)``."""
        mask = key_mask(attention_mask)
        states: Tensor = self.embeddings(input_ids)
        for layer in self.layers:
            states = layer(states, mask)
        return states


class FusionLayer(nn.Module):
    """Self-attention, cross-attention to the image, feed-forward."""

    def __init__(self, config: TextConfig, image_width: int) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.cross_attention = CrossAttention(config, image_width)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        states: Tensor,
        mask: Tensor,
        keys_values: KeysValues,
        cls_only: bool = False,
        keys_mask: Tensor | None = None,
    ) -> Tensor:
        """Map ``(B, L, W)`` to ``(B, L, W)``, or to ``(B, 1, W)`` with ``cls_only``."""
        states = self.attention(states, mask, cls_only)
        out: Tensor = self.feed_forward(self.cross_attention(states, keys_values, keys_mask))
        return out


class FusionEncoder(nn.Module):
    """Multimodal encoder: text states that look at an image in every layer.

    With two images a text (NLVR2, paper section 5), each layer is two in a row: one looks at the first image, one at
    the second. They share the projection of keys and values, so that an image's are projected once whichever of the
    two it is.
    """

    def __init__(self, config: TextConfig, image_width: int, images: int = 1) -> None:
        super().__init__()
        self.images = images
        self.layers = nn.ModuleList(FusionLayer(config, image_width) for _ in range(config.fusion_layers * images))
        self.apply(init_transformer)
        self.share_keys_values()

    def share_keys_values(self) -> None:
        """Let the layers of a pair project keys and values by one matrix."""
        for index, layer in enumerate(self.layers):
            first = self.layers[index - index % self.images]
            layer.cross_attention.key_value = first.cross_attention.key_value  # type: ignore[union-attr]

    def keys_values(self, image_embeds: Tensor) -> list[KeysValues]:
        """Project image tokens ``(I, N, image width)``, once for all fusion passes of these images."""
        return [
            layer.cross_attention.keys_values(image_embeds)  # type: ignore[union-attr, operator]
            for layer in self.layers[:: self.images]
        ]

    def rows(self, text_rows: int) -> Tensor | None:
        """Which image rows a text looks at when nothing else is said; None is text i at image i.

        Two images a text: text i looks at rows i and B + i.
        """
        if self.images == 1:
            return None
        device = next(self.parameters()).device
        return torch.arange(text_rows * self.images, device=device).view(self.images, text_rows).T

    def forward(
        self,
        text_embeds: Tensor,
        attention_mask: Tensor,
        keys_values: list[KeysValues],
        image_rows: Tensor | None = None,
        cls_only: bool = False,
    ) -> Tensor:
        """Fuse text states with images.

        Args:
            text_embeds: ``(B, L, W)`` from the text encoder.
            attention_mask: 0/1 mask ``(B, L)`` of the text.
            keys_values: Of `keys_values`, for ``I`` images.
            image_rows: Image index of each text, ``(B,)``, or ``(B, 2)`` for two images; see `rows` for the default.
            cls_only: Compute only the first token in the last layer, all that a matching head reads.

        Returns:
            Fused states ``(B, L, W)``, or ``(B, 1, W)`` with ``cls_only``.
        """
        mask = key_mask(attention_mask)
        if image_rows is None:
            image_rows = self.rows(text_embeds.shape[0])
        rows = image_rows[:, None] if image_rows is not None and image_rows.dim() == 1 else image_rows
        states, last = text_embeds, len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            key, value = keys_values[index // self.images]
            if rows is not None:
                chosen = rows[:, index % self.images]
                key, value = key.index_select(0, chosen), value.index_select(0, chosen)
            states = layer(states, mask, (key, value), cls_only and index == last)
        return states
