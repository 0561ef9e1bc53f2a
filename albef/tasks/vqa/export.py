"""Export of VQA: ONNX graphs, Triton endpoint and its candidates.

B = questions, L = text tokens, W = width, C = candidates of a question, A = answer tokens, V = vocabulary.
"""

from __future__ import annotations

import shutil
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef.config import Config, ConfigError
from albef.data.lists import Lists
from albef.models.albef import ALBEF
from albef.serving import protocol
from albef.tasks.endpoint_folder import EndpointFolder
from albef.tasks.onnx_wrappers import Graph, TokensGraph
from albef.tasks.vqa import spec

ANSWER_LIST = "answer_list.json"


class QuestionGraph(Graph):
    """Question encoder: fusion of pairs of an encoded image and a question."""

    def forward(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return fused states ``(B, L, W)``."""
        student = self.model.student
        keys_values = student.fusion.keys_values(image_embeds)
        return cast(Tensor, student.fusion(student.text(input_ids, attention_mask), attention_mask, keys_values))


class DecoderGraph(Graph):
    """Answer decoder over questions with several candidates each."""

    def forward(
        self, question_states: Tensor, attention_mask: Tensor, answer_ids: Tensor, answer_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of given and of next tokens.

        A candidate of padding only is treated as [CLS] only; its log-probabilities are 0.

        Args:
            question_states: Fused states ``(B, L, W)``.
            answer_ids, answer_mask: Candidates ``(B, C, A)``.

        Returns:
            Log-probabilities ``(B, C, A)`` of the candidates' tokens and ``(B, V)`` of the vocabulary.
        """
        decoder = self.model.student.decoder
        size, count, length = answer_ids.shape
        ids = answer_ids.reshape(-1, length)
        # [CLS] is never masked: attention over padding only would be NaN.
        mask = F.pad(answer_mask.reshape(-1, length)[:, 1:], (1, 0), value=1)
        rows = torch.arange(size, device=ids.device)[:, None].expand(size, count).reshape(-1)
        states = decoder(ids, mask, decoder.keys_values(question_states), attention_mask, rows)
        log_p = decoder.word_logits(states[:, :-1]).log_softmax(dim=-1)
        token_log_p = log_p.gather(-1, ids[:, 1:, None])[..., 0]
        token_log_p = F.pad(token_log_p.masked_fill(mask[:, 1:] == 0, 0.0), (1, 0)).reshape(size, count, length)
        first = log_p.unflatten(0, (size, count))[:, 0]
        last = (mask.unflatten(0, (size, count))[:, 0].sum(dim=-1) - 1).clamp(max=length - 2)
        return token_log_p, first.gather(1, last[:, None, None].expand(-1, 1, first.shape[-1]))[:, 0]


def modules(model: ALBEF, config: Config) -> dict[str, nn.Module]:
    """Return the modules to export, by graph name."""
    return {
        protocol.VISION: TokensGraph(model),
        spec.QUESTION_GRAPH: QuestionGraph(model),
        spec.DECODER_GRAPH: DecoderGraph(model),
    }


def write_endpoint(folder: EndpointFolder, config: Config, data: Lists) -> None:
    """Write the settings and the default candidates of the VQA endpoint.

    Raises:
        ConfigError: If there are more beams than rows allowed in a request.
    """
    search, limit = config.tasks.vqa.evaluate, config.serve.max_queries
    if search.beams > limit:
        raise ConfigError(
            f"params.tasks.vqa.evaluate.beams: expected at most serve.max_queries ({limit}), got {search.beams}"
        )
    folder.write_settings(
        spec.VqaSettings,
        generate=search.mode == "generate",
        shortlist=search.shortlist,
        beams=search.beams,
        max_answer_tokens=search.max_tokens,
        official_quirks=config.model.official_quirks,
    )
    shutil.copyfile(data.folder / ANSWER_LIST, folder.path / spec.ANSWERS_FILE)
