"""Text encoder and fusion encoder: the first and the second half of a BERT (paper section 3.1).

B = texts, L = text tokens, I = images, N = image tokens, W = width.
"""

from __future__ import annotations

from torch import Tensor, nn

from albef.config import TextConfig
from albef.model.bert import (
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

    def forward(self, states: Tensor, mask: Tensor, keys_values: KeysValues, cls_only: bool = False) -> Tensor:
        """Map ``(B, L, W)`` to ``(B, L, W)``, or to ``(B, 1, W)`` with ``cls_only``."""
        states = self.attention(states, mask, cls_only)
        out: Tensor = self.feed_forward(self.cross_attention(states, keys_values))
        return out


class FusionEncoder(nn.Module):
    """Multimodal encoder: text states that look at an image in every layer."""

    def __init__(self, config: TextConfig, image_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FusionLayer(config, image_width) for _ in range(config.fusion_layers))
        self.apply(init_transformer)

    def keys_values(self, image_embeds: Tensor) -> list[KeysValues]:
        """Project image tokens ``(I, N, image width)`` for every layer, once for all fusion passes of these images."""
        return [layer.cross_attention.keys_values(image_embeds) for layer in self.layers]  # type: ignore[union-attr, operator]

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
            image_rows: Image index ``(B,)`` of each text; by default text i looks at image i.
            cls_only: Compute only the first token in the last layer, all that a matching head reads.

        Returns:
            Fused states ``(B, L, W)``, or ``(B, 1, W)`` with ``cls_only``.
        """
        mask = key_mask(attention_mask)
        states, last = text_embeds, len(self.layers) - 1
        for index, (layer, (key, value)) in enumerate(zip(self.layers, keys_values, strict=True)):
            if image_rows is not None:
                key, value = key.index_select(0, image_rows), value.index_select(0, image_rows)
            states = layer(states, mask, (key, value), cls_only and index == last)
        return states
