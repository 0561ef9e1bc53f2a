"""ITM scores of many images with many texts, what pairs share computed once (paper sections 3.2 and 5).

T = texts, L = tokens of a text, I = images, N = image tokens, W = width, P = projection width, H = heads, D = W / H.

The scores are those of `ALBEF.match` on every pair. Shared are, for an image, its keys and values, used as they lie in
memory by all its texts at once; for a text, all before the first look at an image, which is the text encoder, the
first fusion layer's self-attention and the queries after it. Texts of one length go together, without padding, and the
last layer computes the [CLS] alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from albef.models.albef import ALBEF
from albef.models.bert import KeysValues
from albef.models.text import FusionLayer


@dataclass(frozen=True)
class TextBank:
    """Texts up to their first look at an image, in groups of one length.

    Attributes:
        feats: ITC features ``(T, P)``.
        states: Of each group ``(n, L, W)``; ``(n, 1, W)`` where the first fusion layer is the last one too.
        queries: Of each group, as many, ``(n, L, H, D)``.
        group: Group of each text ``(T,)``, on the CPU; ``place (T,)`` its row there.
    """

    feats: Tensor
    states: list[Tensor]
    queries: list[Tensor]
    group: Tensor
    place: Tensor


def _layers(model: ALBEF) -> list[FusionLayer]:
    return [cast(FusionLayer, layer) for layer in model.student.fusion.layers]


@torch.no_grad()
def text_bank(model: ALBEF, input_ids: Tensor, attention_mask: Tensor, batch_size: int) -> TextBank:
    """Encode token ids ``(T, L)`` with their 0/1 mask, both on the CPU, ``batch_size`` texts at a time."""
    layers = _layers(model)
    lengths = attention_mask.sum(dim=1)
    kinds, group = lengths.unique(return_inverse=True)
    place = torch.empty_like(group)
    every: list[Tensor] = []
    found: list[Tensor] = []
    all_states, all_queries = [], []
    for index, length in enumerate(kinds.tolist()):
        rows = (group == index).nonzero()[:, 0]
        place[rows] = torch.arange(len(rows))
        every.append(rows)
        states, queries = [], []
        for part in rows.split(batch_size):
            ids = input_ids[part, :length].to(model.device)
            embeds, feats = model.encode_text(ids, torch.ones_like(ids))
            attended = layers[0].attention(embeds, None, cls_only=len(layers) == 1)
            states.append(attended)
            queries.append(layers[0].cross_attention.queries(attended).transpose(1, 2))
            found.append(feats)
        all_states.append(torch.cat(states))
        all_queries.append(torch.cat(queries))
    feats = torch.cat(found)
    return TextBank(feats[torch.cat(every).argsort().to(feats.device)], all_states, all_queries, group, place)


@torch.no_grad()
def match_image(model: ALBEF, bank: TextBank, keys_values: list[KeysValues], texts: Tensor, batch_size: int) -> Tensor:
    """Match scores ``(n,)`` of one image with some texts.

    Args:
        keys_values: The image's, of `FusionEncoder.keys_values`, for ``I = 1``.
        texts: Rows ``(n,)`` of the bank, on the CPU.
        batch_size: Texts at a time.
    """
    scores = torch.empty(len(texts), device=bank.feats.device)
    group = bank.group[texts]
    for index in group.unique().tolist():
        for part in (group == index).nonzero()[:, 0].split(batch_size):
            rows = bank.place[texts[part]].to(scores.device)
            states, queries = bank.states[index][rows], bank.queries[index][rows]
            scores[part.to(scores.device)] = _match(model, states, queries, keys_values).float()
    return scores


def _match(model: ALBEF, states: Tensor, queries: Tensor, keys_values: list[KeysValues]) -> Tensor:
    """Scores ``(n,)``. To an image the tokens of all texts are one long text: what attends to it does not mix them."""
    layers = _layers(model)
    count, length, width = states.shape
    for index, (layer, (key, value)) in enumerate(zip(layers, keys_values, strict=True)):
        if index:
            states = layer.attention(states.view(count, length, width), None, cls_only=index == len(layers) - 1)
            states = states.view(1, -1, width)
            states = layer.cross_attention(states, (key, value))
        else:
            mixed = F.scaled_dot_product_attention(queries.flatten(0, 1).transpose(0, 1)[None], key, value)
            states = layer.cross_attention.finish(mixed, states.view(1, -1, width))
        states = layer.feed_forward(states)
    return cast(Tensor, model.itm_head(states.view(count, -1, width)[:, 0])[:, 1])
