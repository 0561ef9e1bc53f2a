"""Text and fusion encoders, the halves of a BERT (paper section 3.1).

B = texts, L = text tokens, I = images, N = image tokens, W = width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from albef.config import TextConfig
from albef.models.attention import ImageRows
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
    """Transformer layer: self-attention and feed-forward."""

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
    """Transformer layer with cross-attention to an image before the feed-forward."""

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

    def fuse(
        self,
        states: Tensor,
        mask: Tensor,
        packed: Tensor,
        rows: ImageRows | None,
        cls_only: bool = False,
        places: Tensor | None = None,
    ) -> Tensor:
        """Map ``(B, L, W)`` to ``(B, L, W)`` with the projections of `CrossAttention.packed`.

        Args:
            rows: Image of each text; None: text i attends to image i.
            cls_only: Return the first tokens ``(B, 1, W)`` only.
            places: Return the tokens at these places of all texts in a row only, ``(M, W)``.
        """
        states = self.cross_attention.attend(self.attention(states, mask, cls_only), packed, rows)
        if places is not None:
            states = states.flatten(0, 1).index_select(0, places)
        out: Tensor = self.feed_forward(states)
        return out


class FusionEncoder(nn.Module):
    """Multimodal encoder: text states cross-attend to an image in every layer.

    With two images per text (NLVR2, paper section 5) each layer becomes a pair: the first attends to the first image,
    the second to the second image. The pair shares the projection of keys and values, so that each image is projected
    only once, whichever of the two it is.
    """

    def __init__(self, config: TextConfig, image_width: int, images: int = 1) -> None:
        super().__init__()
        self.images = images
        self.layers = nn.ModuleList(FusionLayer(config, image_width) for _ in range(config.fusion_layers * images))
        self.apply(init_transformer)
        self.share_keys_values()

    def share_keys_values(self) -> None:
        """Tie the key and value projections of the layers of each pair."""
        for index, layer in enumerate(self.layers):
            first = self.layers[index - index % self.images]
            layer.cross_attention.key_value = first.cross_attention.key_value  # type: ignore[union-attr]

    def keys_values(self, image_embeds: Tensor) -> list[KeysValues]:
        """Project image tokens ``(I, N, image width)`` to keys and values of every layer."""
        return [
            layer.cross_attention.keys_values(image_embeds)  # type: ignore[union-attr, operator]
            for layer in self.layers[:: self.images]
        ]

    def packed_keys_values(self, image_embeds: Tensor) -> list[Tensor]:
        """Project image tokens ``(I, N, image width)`` for `fuse`.

        Returns:
            Keys and values of every layer, ``(I, N, 2, H, D)``.
        """
        if torch.is_autocast_enabled(image_embeds.device.type):  # once instead of in every layer
            image_embeds = image_embeds.to(torch.get_autocast_dtype(image_embeds.device.type))
        return [layer.cross_attention.packed(image_embeds) for layer in self.layers]  # type: ignore[union-attr, operator]

    def fuse(
        self,
        text_embeds: Tensor,
        attention_mask: Tensor,
        packed: list[Tensor],
        matched: ImageRows | None,
        words: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Fuse the texts of all objectives of a training step in one pass.

        All layers but the last run on all texts at once; the last computes only what the objectives read.

        Args:
            text_embeds: ``(T, L, W)`` from the text encoder: first those whose [CLS] is read, then one text of each
                image whose words are read.
            attention_mask: 0/1 mask ``(T, L)`` of the texts.
            packed: From `packed_keys_values`, for ``I`` images.
            matched: Image of each text of the first part; None if that part is empty.
            words: Places ``(M,)`` of the words in the second part, counted over all its texts; None if it is empty.

        Returns:
            [CLS] states ``(T - I, W)`` or ``(T, W)``, and states of words ``(M, W)``.
        """
        mask, images = key_mask(attention_mask), len(packed[0])
        split = 0 if matched is None else len(matched.rows)
        rows = matched
        if matched is not None and words is not None:
            rows = ImageRows.of(torch.cat([matched.rows, torch.arange(images, device=mask.device)]), images)
        states, last = text_embeds, len(self.layers) - 1
        for layer, keys_values in zip(self.layers[:last], packed, strict=False):
            states = layer.fuse(states, mask, keys_values, rows)  # type: ignore[operator]
        final = self.layers[last]
        cls = word_states = states.new_empty(0, states.shape[-1])
        if matched is not None:
            cls = final.fuse(states[:split], mask[:split], packed[last], matched, cls_only=True)[:, 0]  # type: ignore[operator]
        if words is not None:
            word_states = final.fuse(states[split:], mask[split:], packed[last], None, places=words)  # type: ignore[operator]
        return cls, word_states

    def rows(self, text_rows: int) -> Tensor | None:
        """Return the default image indices of the texts.

        None with one image per text: text i attends to image i. With two images per text ``(B, 2)``: text i attends
        to images i and B + i.
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
            keys_values: From `keys_values`, for ``I`` images.
            image_rows: Image index of each text, ``(B,)``, or ``(B, 2)`` for two images; see `rows` for the default.
            cls_only: Compute only the first token in the last layer, which is all that a matching head reads.

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
