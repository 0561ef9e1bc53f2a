"""Modules around a model, one per exported graph, that several tasks share.

B = images or texts, N = image tokens, L = text tokens, W = width, P = projection width.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from albef.models.albef import ALBEF


class Graph(nn.Module):
    """A part of ``model`` to export.

    Attributes:
        differentiates: Whether its forward pass computes gradients, which the export then writes out as operators.
    """

    differentiates = False

    def __init__(self, model: ALBEF) -> None:
        super().__init__()
        self.model = model


class VisionGraph(Graph):
    """Pixels ``(B, 3, H, H)`` to tokens ``(B, N, W)`` and ITC features ``(B, P)``."""

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images."""
        return self.model.encode_image(pixel_values)


class TokensGraph(Graph):
    """Pixels ``(B, 3, H, H)`` to tokens ``(B, N, W)``."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images."""
        return cast(Tensor, self.model.student.vision(pixel_values))


class ClassifyGraph(Graph):
    """Encoded images and sentences, side by side, to class logits ``(B, classes)``."""

    def forward(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Classify sentences; with two images a sentence, all first ones come before all second ones."""
        student = self.model.student
        keys_values = student.fusion.keys_values(image_embeds)
        text = student.text(input_ids, attention_mask)
        fused = student.fusion(text, attention_mask, keys_values, cls_only=True)
        return cast(Tensor, student.cls_head(fused[:, 0]))
