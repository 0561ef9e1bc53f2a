"""ALBEF: student encoders, their momentum teacher, and the heads of a task.

B = images or texts, N = image tokens, L = text tokens, W = width, P = projection width, V = vocabulary.

The task's architecture decides which modules exist; accessing an absent one raises AttributeError.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef.config import ModelConfig
from albef.models.architecture import Architecture
from albef.models.bert import MLMHead, init_transformer
from albef.models.decoder import AnswerDecoder
from albef.models.encoders import resolve
from albef.models.precision import full_precision
from albef.models.queue import FeatureQueue
from albef.models.text import FusionEncoder, TextEncoder
from albef.models.vision import VisionEncoder
from albef.tasks import registry

P = ParamSpec("P")
R = TypeVar("R")


class Encoders(nn.Module):
    """Modules that have a momentum copy: encoders, projections, heads on fused states."""

    vision_proj: nn.Linear
    text_proj: nn.Linear
    mlm_head: MLMHead
    decoder: AnswerDecoder
    cls_head: nn.Module

    def __init__(self, config: ModelConfig, vocab_size: int, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        width = config.text.width
        self.vision = VisionEncoder(config)
        self.text = TextEncoder(config.text, vocab_size)
        self.fusion = FusionEncoder(config.text, self.vision.width, architecture.images)
        if architecture.projections != "none":
            self.vision_proj = nn.Linear(self.vision.width, config.projection)
        if architecture.projections == "both":
            self.text_proj = nn.Linear(width, config.projection)
        if architecture.mlm:
            self.mlm_head = MLMHead(config.text, vocab_size)
            self.mlm_head.apply(init_transformer)
        if architecture.decoder:
            self.decoder = AnswerDecoder(config.text, vocab_size)
        if architecture.classes:
            last = nn.Linear(width, architecture.classes)
            self.cls_head = (
                last if architecture.head == "linear" else nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)
            )

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            pixels: ``(B, 3, H, H)``.

        Returns:
            Tokens ``(B, N, W)`` and ITC features ``(B, P)`` of unit length.
        """
        embeds = self.vision(pixels)
        with full_precision(embeds):
            return embeds, F.normalize(self.vision_proj(embeds[:, 0].float()), dim=-1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode texts.

        Args:
            input_ids: ``(B, L)``.
            attention_mask: 0/1 mask ``(B, L)``.

        Returns:
            States ``(B, L, W)`` and ITC features ``(B, P)`` of unit length.
        """
        embeds = self.text(input_ids, attention_mask)
        return embeds, self.text_features(embeds)

    def text_features(self, embeds: Tensor) -> Tensor:
        """Return ITC features ``(B, P)`` of unit length of text states ``(B, L, W)``."""
        with full_precision(embeds):
            return F.normalize(self.text_proj(embeds[:, 0].float()), dim=-1)

    def fuse(
        self,
        pixels: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_rows: Tensor | None = None,
        cls_only: bool = False,
    ) -> Tensor:
        """Fuse texts with their images.

        Args:
            pixels: ``(B, 3, H, H)``, image i for text i. With two images per text ``(2B, 3, H, H)``, all first images
                before all second ones. ``(I, 3, H, H)`` with ``image_rows``.
            input_ids: ``(B, L)``.
            attention_mask: 0/1 mask ``(B, L)``.
            image_rows: Image index of each text, for images shared between texts; see `FusionEncoder.forward`.
            cls_only: Compute only the first token in the last layer.

        Returns:
            Fused states ``(B, L, W)``, or ``(B, 1, W)`` with ``cls_only``.
        """
        keys_values = self.fusion.keys_values(self.vision(pixels))
        text = self.text(input_ids, attention_mask)
        return cast(Tensor, self.fusion(text, attention_mask, keys_values, image_rows, cls_only))

    def classify(
        self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, image_rows: Tensor | None = None
    ) -> Tensor:
        """Return class logits ``(B, classes)``; arguments as in `fuse`."""
        fused = self.fuse(pixels, input_ids, attention_mask, image_rows, cls_only=True)
        return cast(Tensor, self.cls_head(fused[:, 0]))

    def word_logits(self, states: Tensor) -> Tensor:
        """Return MLM logits ``(..., V)`` of fused states ``(..., W)``.

        Raises:
            ValueError: If the architecture has no MLM head.
        """
        if not self.architecture.mlm:
            raise ValueError("word_logits: the architecture of this model has no MLM head")
        return cast(Tensor, self.mlm_head(states, self.text.embeddings.word.weight))


class ALBEF(nn.Module):
    """ALBEF (paper section 3) with the heads of a task (section 5).

    Args:
        config: Model dimensions; those of named encoders are looked up.
        vocab_size: Vocabulary size of the tokenizer.
        task: Task whose architecture to build; see `albef.tasks.registry`.
        inference: Omit the teacher and the queue, which only training needs.

    Attributes:
        part: Part of a training step, and their number: gradients are accumulated over parts, but the teacher and the
            queue change once a step.
        rows: Rows of each part of each rank, ``[rank][part]``; empty if all are equal.
        regions: Compiled forms of functions.
    """

    teacher: Encoders
    itm_head: nn.Linear
    temperature: nn.Parameter
    queue: FeatureQueue

    def __init__(self, config: ModelConfig, vocab_size: int, task: str = "pretrain", inference: bool = False) -> None:
        super().__init__()
        self.config = config = resolve(config)
        self.vocab_size = vocab_size
        self.task = task
        architecture = registry.spec(task).architecture
        self.architecture = replace(architecture, teacher=False) if inference else architecture
        self.student = Encoders(config, vocab_size, self.architecture)
        if self.architecture.teacher:
            self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        if self.architecture.align:
            self.itm_head = nn.Linear(config.text.width, 2)
            self.temperature = nn.Parameter(torch.tensor(config.temperature))
            if not inference:
                self.queue = FeatureQueue(config.queue_size, config.projection)
        self.part = (0, 1)
        self.rows: list[list[int]] = []
        self.regions: dict[Callable[..., Any], Callable[..., Any]] = {}
        self._collected: list[tuple[Tensor, ...]] = []
        self.train()

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> ALBEF:
        """Set training mode.

        The teacher stays in evaluation mode (no dropout); with ``official_quirks`` it follows the student.
        """
        super().train(mode)
        if self.architecture.teacher:
            self.teacher.train(mode and self.config.official_quirks)
        return self

    @torch.no_grad()
    def update_teacher(self) -> None:
        """Update the teacher as the moving average of the student, in place.

        Only the first part of a step does so. ``teacher = m * teacher + (1 - m) * student``, ``m = config.momentum``.
        """
        if self.part[0]:
            return
        torch._foreach_lerp_(
            list(self.teacher.parameters()),
            [p.detach() for p in self.student.parameters()],
            1.0 - self.config.momentum,
        )

    def collect(self, *features: Tensor) -> Sequence[Tensor] | None:
        """Keep features for the queue.

        Returns:
            The features of all parts in the last part of a step, else None.
        """
        self._collected.append(features)
        if self.part[0] + 1 < self.part[1]:
            return None
        columns = [torch.cat(column) for column in zip(*self._collected, strict=True)]
        self._collected.clear()
        return columns

    def region(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the compiled form of a function, or the function itself if it is not compiled."""
        return self.regions.get(function, function)

    @torch.no_grad()
    def sync_teacher(self) -> None:
        """Copy the student's weights to the teacher."""
        torch._foreach_copy_(list(self.teacher.parameters()), [p.detach() for p in self.student.parameters()])

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Clamp the temperature to [0.001, 0.5], as the official pretraining does."""
        self.temperature.clamp_(0.001, 0.5)

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images with the student; see `Encoders.encode_image`."""
        return self.student.encode_image(pixels)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode texts with the student; see `Encoders.encode_text`."""
        return self.student.encode_text(input_ids, attention_mask)

    def match(
        self,
        text_embeds: Tensor,
        attention_mask: Tensor,
        image_embeds: Tensor,
    ) -> Tensor:
        """Return ITM logits of image-text pairs.

        Args:
            text_embeds: Text states ``(B, L, W)``.
            attention_mask: 0/1 mask ``(B, L)`` of the texts.
            image_embeds: Image tokens ``(B, N, image width)``.

        Returns:
            Logits ``(B, 2)``; column 1 is "match".
        """
        keys_values = self.student.fusion.keys_values(image_embeds)
        fused = self.student.fusion(text_embeds, attention_mask, keys_values, cls_only=True)
        return self.itm_logits(fused[:, 0])

    def itm_logits(self, states: Tensor) -> Tensor:
        """Return ITM logits ``(B, 2)`` of fused [CLS] states ``(B, W)``; column 1 is "match"."""
        with full_precision(states):
            return cast(Tensor, self.itm_head(states.float()))
