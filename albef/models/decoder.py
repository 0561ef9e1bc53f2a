"""Answer decoder for VQA (paper section 5).

A causal text decoder that cross-attends to the fused question states.

A = answers, B = questions, L = answer tokens, N = question tokens, M = answer prefixes per question, W = width,
H = heads, D = W / H, V = vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef.config import TextConfig
from albef.models.bert import Embeddings, KeysValues, MLMHead, init_transformer, key_mask
from albef.models.text import FusionLayer


class DecoderLayer(FusionLayer):
    """Fusion layer that cross-attends to a question and supports incremental decoding."""

    def step(
        self, states: Tensor, past: KeysValues | None, question: KeysValues, question_mask: Tensor
    ) -> tuple[Tensor, KeysValues]:
        """Process one more token of ``M`` prefixes per question.

        Args:
            states: ``(B, M, W)``.
            past: Cached keys and values ``(B, M, H, t, D)`` of the previous tokens of each prefix.
            question: Keys and values ``(B, H, N, D)`` of the question, shared by all its prefixes.
            question_mask: ``(B, 1, 1, N)``.

        Returns:
            States ``(B, M, W)`` and the cache extended by this token.
        """
        states, past = self.self_attend(states, past)
        return self.cross_attend(states, question, question_mask), past

    def self_attend(self, states: Tensor, past: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """Run the first half of `step`: attention to the previous tokens.

        It does not depend on the question.
        """
        attention = self.attention
        query, key, value = (
            part.unflatten(-1, (attention.heads, 1, -1)) for part in attention.qkv(states).chunk(3, dim=-1)
        )
        if past is not None:
            key, value = torch.cat([past[0], key], dim=3), torch.cat([past[1], value], dim=3)
        mixed = F.scaled_dot_product_attention(query, key, value).flatten(2)
        return cast(Tensor, attention.norm(attention.out(mixed) + states)), (key, value)

    def cross_attend(self, states: Tensor, question: KeysValues, question_mask: Tensor) -> Tensor:
        """Run the second half of `step`: attention to the question, feed-forward."""
        states = self.cross_attention(states, question, question_mask)
        return cast(Tensor, self.feed_forward(states))


class AnswerDecoder(nn.Module):
    """Embeddings, decoder layers and a word head.

    Fine-tuning initializes the layers from the fusion encoder (`albef.weights.adapt_weights`).
    """

    def __init__(self, config: TextConfig, vocab_size: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(config, vocab_size)
        count = config.fusion_layers if config.decoder_layers is None else config.decoder_layers
        self.layers = nn.ModuleList(DecoderLayer(config, config.width) for _ in range(count))
        self.head = MLMHead(config, vocab_size)
        self.apply(init_transformer)

    def keys_values(self, question_states: Tensor) -> list[KeysValues]:
        """Project question states ``(B, N, W)`` to keys and values of every layer."""
        return [layer.cross_attention.keys_values(question_states) for layer in self.layers]  # type: ignore[union-attr, operator]

    def forward(
        self,
        answer_ids: Tensor,
        answer_mask: Tensor,
        keys_values: list[KeysValues],
        question_mask: Tensor,
        question_rows: Tensor | None = None,
    ) -> Tensor:
        """Decode complete answers with causal attention.

        Args:
            answer_ids: ``(A, L)``, [CLS] first.
            answer_mask: 0/1 mask ``(A, L)``.
            keys_values: From `keys_values`, for ``B`` questions.
            question_mask: 0/1 mask ``(B, N)``.
            question_rows: Question index ``(A,)`` of each answer; by default answer i belongs to question i.

        Returns:
            States ``(A, L, W)``.
        """
        length = answer_ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=answer_ids.device).tril()
        mask, seen = key_mask(answer_mask) & causal, key_mask(question_mask)
        states: Tensor = self.embeddings(answer_ids)
        if question_rows is not None:
            seen = seen.index_select(0, question_rows)
        for layer, (key, value) in zip(self.layers, keys_values, strict=True):
            if question_rows is not None:
                key, value = key.index_select(0, question_rows), value.index_select(0, question_rows)
            states = layer(states, mask, (key, value), keys_mask=seen)
        return states

    def step(
        self,
        tokens: Tensor,
        position: int,
        past: list[KeysValues] | None,
        keys_values: list[KeysValues],
        question_mask: Tensor,
    ) -> tuple[Tensor, list[KeysValues]]:
        """Decode one more token of ``M`` prefixes per question.

        Args:
            tokens: Token ids ``(B, M)``.
            position: Position of the tokens in their answers.
            past: Cache returned for the previous position, reordered to the current prefixes; None at position 0.
            keys_values: From `keys_values`.
            question_mask: 0/1 mask ``(B, N)``.

        Returns:
            States ``(B, M, W)`` and the extended cache.
        """
        states = self.embed(tokens, position)
        seen, new = key_mask(question_mask), []
        for index, layer in enumerate(self.layers):
            before = past[index] if past is not None else None
            states, kept = cast(DecoderLayer, layer).step(states, before, keys_values[index], seen)
            new.append(kept)
        return states, new

    def embed(self, tokens: Tensor, position: int) -> Tensor:
        """Embed token ids ``(...)`` of one position as states ``(..., W)``."""
        embeddings = self.embeddings
        states = embeddings.word(tokens) + embeddings.token_type.weight[0] + embeddings.position.weight[position]
        return cast(Tensor, embeddings.dropout(embeddings.norm(states)))

    def word_logits(self, states: Tensor) -> Tensor:
        """Return next-token logits ``(..., V)`` of ``states`` ``(..., W)``."""
        return cast(Tensor, self.head(states, self.embeddings.word.weight))
