"""The composed model: student towers, their momentum teacher, the match head, the temperature and the queue.

B = images or texts, N = image tokens, L = text tokens, W = width, P = projection width.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef.config import ModelConfig
from albef.model.bert import MLMHead, init_transformer
from albef.model.queue import FeatureQueue
from albef.model.text import FusionEncoder, TextEncoder
from albef.model.vision import VisionEncoder


class Towers(nn.Module):
    """All that has a momentum twin: encoders, projections and the MLM head (where the task has one)."""

    def __init__(self, config: ModelConfig, vocab_size: int, mlm: bool) -> None:
        super().__init__()
        self.vision = VisionEncoder(config)
        self.text = TextEncoder(config.text, vocab_size)
        self.fusion = FusionEncoder(config.text, config.vision.width)
        self.vision_proj = nn.Linear(config.vision.width, config.projection)
        self.text_proj = nn.Linear(config.text.width, config.projection)
        self.mlm_head = MLMHead(config.text, vocab_size) if mlm else None
        if self.mlm_head is not None:
            self.mlm_head.apply(init_transformer)

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode pixels ``(B, 3, H, H)``: tokens ``(B, N, W)`` and unit ITC features ``(B, P)``."""
        embeds = self.vision(pixels)
        return embeds, F.normalize(self.vision_proj(embeds[:, 0]), dim=-1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode token ids ``(B, L)``: states ``(B, L, W)`` and unit ITC features ``(B, P)``."""
        embeds = self.text(input_ids, attention_mask)
        return embeds, F.normalize(self.text_proj(embeds[:, 0]), dim=-1)

    def word_logits(self, states: Tensor) -> Tensor:
        """MLM logits ``(..., V)`` of fused states ``(..., W)``."""
        if self.mlm_head is None:
            raise ValueError("this model was built without an MLM head")
        return cast(Tensor, self.mlm_head(states, self.text.embeddings.word.weight))


class ALBEF(nn.Module):
    """ALBEF for pretraining and retrieval (paper section 3).

    Args:
        config: Sizes.
        vocab_size: Of the tokenizer.
        mlm: Whether to build the MLM head (pretraining).
    """

    def __init__(self, config: ModelConfig, vocab_size: int, mlm: bool = True) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.student = Towers(config, vocab_size, mlm)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.itm_head = nn.Linear(config.text.width, 2)
        self.temperature = nn.Parameter(torch.tensor(config.temperature))
        self.queue = FeatureQueue(config.queue_size, config.projection)
        self.train()

    def train(self, mode: bool = True) -> ALBEF:
        """Set the mode. The teacher keeps dropout off, except in faithful mode, where it follows the student."""
        super().train(mode)
        self.teacher.train(mode and self.config.faithful)
        return self

    @torch.no_grad()
    def update_teacher(self) -> None:
        """Move the teacher's weights towards the student's: ``m * teacher + (1 - m) * student``, in place."""
        torch._foreach_lerp_(
            list(self.teacher.parameters()),
            [p.detach() for p in self.student.parameters()],
            1.0 - self.config.momentum,
        )

    @torch.no_grad()
    def copy_teacher(self) -> None:
        """Make the teacher equal to the student."""
        torch._foreach_copy_(list(self.teacher.parameters()), [p.detach() for p in self.student.parameters()])

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keep the temperature within [0.001, 0.5], as the official pretraining does."""
        self.temperature.clamp_(0.001, 0.5)

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """`Towers.encode_image` of the student."""
        return self.student.encode_image(pixels)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """`Towers.encode_text` of the student."""
        return self.student.encode_text(input_ids, attention_mask)

    def match(
        self,
        text_embeds: Tensor,
        attention_mask: Tensor,
        image_embeds: Tensor,
    ) -> Tensor:
        """ITM logits ``(B, 2)`` of texts and images side by side; column 1 is "match"."""
        keys_values = self.student.fusion.keys_values(image_embeds)
        fused = self.student.fusion(text_embeds, attention_mask, keys_values, cls_only=True)
        return cast(Tensor, self.itm_head(fused[:, 0]))
