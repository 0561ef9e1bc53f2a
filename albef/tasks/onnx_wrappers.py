"""Wrapper modules for ONNX export, one per graph, shared by several tasks.

B = images or texts, N = image tokens, L = text tokens, W = width, P = projection width.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from albef.models.albef import ALBEF


class Graph(nn.Module):
    """Base class of the wrappers; ``forward`` is the computation to export.

    Attributes:
        differentiates: Whether the forward pass computes gradients, which the export expands to operators.
    """

    differentiates = False

    def __init__(self, model: ALBEF) -> None:
        super().__init__()
        self.model = model


class VisionGraph(Graph):
    """Image encoder with ITC projection."""

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens ``(B, N, W)`` and ITC features ``(B, P)``."""
        return self.model.encode_image(pixel_values)


class TokensGraph(Graph):
    """Image encoder without ITC projection."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return tokens ``(B, N, W)``."""
        return cast(Tensor, self.model.student.vision(pixel_values))


class ClassifyGraph(Graph):
    """Classifier of pairs of an encoded image and a sentence."""

    def forward(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return class logits ``(B, classes)``.

        Args:
            image_embeds: ``(B, N, W)``; for sentences about two images ``(2B, N, W)``, all first images before all
                second ones.
        """
        student = self.model.student
        keys_values = student.fusion.keys_values(image_embeds)
        text = student.text(input_ids, attention_mask)
        fused = student.fusion(text, attention_mask, keys_values, cls_only=True)
        return cast(Tensor, student.cls_head(fused[:, 0]))
