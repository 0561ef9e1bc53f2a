"""Thin modules around a model, one per graph of the serving contract.

B = images or texts, N = image tokens, L = text tokens, W = width, P = projection width, C = candidates of a question,
A = answer tokens, V = vocabulary, G = patches a side.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef.inference.gradcam import itm_map_of
from albef.models.albef import ALBEF


class Graph(nn.Module):
    """A part of ``model`` to export."""

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


class TextGraph(Graph):
    """Token ids and mask ``(B, L)`` to states ``(B, L, W)`` and ITC features ``(B, P)``."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode texts."""
        return self.model.encode_text(input_ids, attention_mask)


class FusionGraph(Graph):
    """Encoded images and texts, side by side, to ITM logits ``(B, 2)``."""

    def forward(self, image_embeds: Tensor, text_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        """Score pairs."""
        return self.model.match(text_embeds, attention_mask, image_embeds)


class QuestionGraph(Graph):
    """Encoded images and questions, side by side, to fused states ``(B, L, W)``."""

    def forward(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode questions."""
        student = self.model.student
        keys_values = student.fusion.keys_values(image_embeds)
        return cast(Tensor, student.fusion(student.text(input_ids, attention_mask), attention_mask, keys_values))


class DecoderGraph(Graph):
    """Questions ``(B, L, W)``, each with candidates ``(B, C, A)``, to log-probabilities of their tokens."""

    def forward(
        self, question_states: Tensor, attention_mask: Tensor, answer_ids: Tensor, answer_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score answers: ``(B, C, A)`` of the tokens given, and ``(B, V)`` of every token after the first candidate.

        A candidate that is padding alone is as good as [CLS] alone: its tokens are 0.
        """
        decoder = self.model.student.decoder
        size, count, length = answer_ids.shape
        ids = answer_ids.reshape(-1, length)
        # [CLS] is always seen: a row of padding would else attend to nothing, which is no number.
        mask = F.pad(answer_mask.reshape(-1, length)[:, 1:], (1, 0), value=1)
        rows = torch.arange(size, device=ids.device)[:, None].expand(size, count).reshape(-1)
        states = decoder(ids, mask, decoder.keys_values(question_states), attention_mask, rows)
        log_p = decoder.word_logits(states[:, :-1]).log_softmax(dim=-1)
        own = log_p.gather(-1, ids[:, 1:, None])[..., 0]
        own = F.pad(own.masked_fill(mask[:, 1:] == 0, 0.0), (1, 0)).reshape(size, count, length)
        first = log_p.unflatten(0, (size, count))[:, 0]
        last = (mask.unflatten(0, (size, count))[:, 0].sum(dim=-1) - 1).clamp(max=length - 2)
        return own, first.gather(1, last[:, None, None].expand(-1, 1, first.shape[-1]))[:, 0]


class ClassifyGraph(Graph):
    """Encoded images and sentences, side by side, to class logits ``(B, classes)``."""

    def forward(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Classify sentences; with two images a sentence, all first ones come before all second ones."""
        student = self.model.student
        keys_values = student.fusion.keys_values(image_embeds)
        text = student.text(input_ids, attention_mask)
        fused = student.fusion(text, attention_mask, keys_values, cls_only=True)
        return cast(Tensor, student.cls_head(fused[:, 0]))


class ClassifyPairGraph(ClassifyGraph):
    """Two encoded images and a sentence, side by side, to class logits ``(B, classes)``."""

    def forward(  # type: ignore[override]
        self, image_embeds: Tensor, second_image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """Classify sentences."""
        return super().forward(torch.cat([image_embeds, second_image_embeds]), input_ids, attention_mask)


class HeatGraph(Graph):
    """Encoded images and texts, side by side, to the heat map ``(B, L, G, G)`` of every token.

    Args:
        block: Fusion layer that is looked at.
    """

    def __init__(self, model: ALBEF, block: int) -> None:
        super().__init__(model)
        self.block = block

    def forward(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Grad-CAM of the match."""
        return itm_map_of(self.model, image_embeds, input_ids, attention_mask, self.block)


def differentiated(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """The same computation without automatic differentiation: gradients are written out as operators.

    Tracing runs the backward pass through the operators that it is made of, so that the result can be exported.

    Args:
        inputs: To trace with; every size of theirs stays free.
    """
    from torch._decomp import core_aten_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # Attention as products and a softmax: the fused operators' backward has no counterpart in ONNX.
    with sdpa_kernel(SDPBackend.MATH):
        return make_fx(
            module,
            decomposition_table=cast(Any, core_aten_decompositions()),
            tracing_mode="symbolic",
            _allow_non_fake_inputs=True,
        )(*inputs)
