"""Answer decoder of VQA: a causal text decoder that attends to the fused question (paper section 5).

A = answers, B = questions, L = answer tokens, N = question tokens, M = answer prefixes of a question, W = width,
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
    """A fusion layer that attends to a question instead of an image, and can go token by token."""

    def step(
        self, states: Tensor, past: KeysValues | None, question: KeysValues, question_mask: Tensor
    ) -> tuple[Tensor, KeysValues]:
        """Advance ``M`` prefixes of each question by one token.

        Args:
            states: ``(B, M, W)``.
            past: Keys and values ``(B, M, H, t, D)`` of the tokens before, prefix by prefix.
            question: Keys and values ``(B, H, N, D)``, used by all prefixes of a question as they are.
            question_mask: ``(B, 1, 1, N)``.

        Returns:
            States ``(B, M, W)`` and the past with this token.
        """
        states, past = self.recall(states, past)
        return self.look(states, question, question_mask), past

    def recall(self, states: Tensor, past: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """The half of `step` that knows no question: attention to the tokens before."""
        attention = self.attention
        query, key, value = (
            part.unflatten(-1, (attention.heads, 1, -1)) for part in attention.qkv(states).chunk(3, dim=-1)
        )
        if past is not None:
            key, value = torch.cat([past[0], key], dim=3), torch.cat([past[1], value], dim=3)
        mixed = F.scaled_dot_product_attention(query, key, value).flatten(2)
        return cast(Tensor, attention.norm(attention.out(mixed) + states)), (key, value)

    def look(self, states: Tensor, question: KeysValues, question_mask: Tensor) -> Tensor:
        """The other half: attention to the question, and feed-forward."""
        states = self.cross_attention(states, question, question_mask)
        return cast(Tensor, self.feed_forward(states))


class AnswerDecoder(nn.Module):
    """Embeddings, decoder layers (which start as the fusion encoder's) and a word head."""

    def __init__(self, config: TextConfig, vocab_size: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(config, vocab_size)
        count = config.fusion_layers if config.decoder_layers is None else config.decoder_layers
        self.layers = nn.ModuleList(DecoderLayer(config, config.width) for _ in range(count))
        self.head = MLMHead(config, vocab_size)
        self.apply(init_transformer)

    def keys_values(self, question_states: Tensor) -> list[KeysValues]:
        """Project question states ``(B, N, W)`` for every layer, once for all answers."""
        return [layer.cross_attention.keys_values(question_states) for layer in self.layers]  # type: ignore[union-attr, operator]

    def forward(
        self,
        answer_ids: Tensor,
        answer_mask: Tensor,
        keys_values: list[KeysValues],
        question_mask: Tensor,
        question_rows: Tensor | None = None,
    ) -> Tensor:
        """States ``(A, L, W)`` of answer tokens, each knowing those before it.

        Args:
            answer_ids: ``(A, L)``, [CLS] first.
            answer_mask: 0/1 mask ``(A, L)``.
            keys_values: Of `keys_values`, for ``B`` questions.
            question_mask: 0/1 mask ``(B, N)``.
            question_rows: Question index ``(A,)`` of each answer; by default answer i belongs to question i.
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
        """One token of ``M`` prefixes of each question: ids ``(B, M)`` at ``position`` to states ``(B, M, W)``.

        ``past`` is what the call for the token before returned, its prefixes those of these.
        """
        states = self.embed(tokens, position)
        seen, new = key_mask(question_mask), []
        for index, layer in enumerate(self.layers):
            before = past[index] if past is not None else None
            states, kept = cast(DecoderLayer, layer).step(states, before, keys_values[index], seen)
            new.append(kept)
        return states, new

    def embed(self, tokens: Tensor, position: int) -> Tensor:
        """Embed tokens that stand at one position: ids ``(...)`` to states ``(..., W)``."""
        embeddings = self.embeddings
        states = embeddings.word(tokens) + embeddings.token_type.weight[0] + embeddings.position.weight[position]
        return cast(Tensor, embeddings.dropout(embeddings.norm(states)))

    def word_logits(self, states: Tensor) -> Tensor:
        """Scores ``(..., V)`` of the token after each of ``states`` ``(..., W)``."""
        return cast(Tensor, self.head(states, self.embeddings.word.weight))
