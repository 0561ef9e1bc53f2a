"""Efficient ITM scores of many image-text pairs (paper sections 3.2, 5).

T = texts, L = tokens of a text, I = images, N = image tokens, W = width, P = projection width, H = heads, D = W / H.

The scores equal `ALBEF.match` on every pair. Computed once per image: its keys and values, which all its texts use
without a copy. Computed once per text: everything before the first cross-attention, that is the text encoder, the
self-attention of the first fusion layer and its queries. Texts are grouped by length, so there is no padding, and the
last layer computes only [CLS].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from albef.models import attention
from albef.models.albef import ALBEF
from albef.models.bert import KeysValues
from albef.models.text import FusionLayer


@dataclass(frozen=True)
class TextBank:
    """Texts encoded up to the first cross-attention, grouped by length.

    Attributes:
        feats: ITC features ``(T, P)``.
        states: States ``(n, L, W)`` of each group; ``(n, 1, W)`` if there is only one fusion layer.
        queries: Queries ``(n, L, H, D)`` of each group; ``(n, 1, H, D)`` if there is only one fusion layer.
        group: Group ``(T,)`` of each text, on the CPU.
        place: Row ``(T,)`` of each text in its group, on the CPU.
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
    """Encode texts up to the first cross-attention.

    Args:
        input_ids: Token ids ``(T, L)``, on the CPU.
        attention_mask: 0/1 mask ``(T, L)``, on the CPU.
        batch_size: Texts per forward pass.
    """
    layers = _layers(model)
    lengths, group = attention_mask.sum(dim=1).unique(return_inverse=True)
    place = torch.empty_like(group)
    order: list[Tensor] = []
    all_feats: list[Tensor] = []
    all_states, all_queries = [], []
    for index, length in enumerate(lengths.tolist()):
        rows = (group == index).nonzero()[:, 0]
        place[rows] = torch.arange(len(rows))
        order.append(rows)
        states, queries = [], []
        for part in rows.split(batch_size):
            ids = input_ids[part, :length].to(model.device)
            embeds, feats = model.encode_text(ids, torch.ones_like(ids))
            attended = layers[0].attention(embeds, None, cls_only=len(layers) == 1)
            states.append(attended)
            queries.append(layers[0].cross_attention.queries(attended).transpose(1, 2))
            all_feats.append(feats)
        all_states.append(torch.cat(states))
        all_queries.append(torch.cat(queries))
    feats = torch.cat(all_feats)
    return TextBank(feats[torch.cat(order).argsort().to(feats.device)], all_states, all_queries, group, place)


@torch.no_grad()
def match_image(model: ALBEF, bank: TextBank, keys_values: list[KeysValues], texts: Tensor, batch_size: int) -> Tensor:
    """Return ITM logits ``(n, 2)`` of one image with several texts; column 1 is "match".

    Args:
        keys_values: From `FusionEncoder.keys_values`, for one image.
        texts: Text indices ``(n,)`` of the bank, on the CPU.
        batch_size: Texts per forward pass.
    """
    logits = torch.empty(len(texts), 2, device=bank.feats.device)
    group = bank.group[texts]
    for index in group.unique().tolist():
        for part in (group == index).nonzero()[:, 0].split(batch_size):
            rows = bank.place[texts[part]].to(logits.device)
            states, queries = bank.states[index][rows], bank.queries[index][rows]
            logits[part.to(logits.device)] = _match(model, states, queries, keys_values).float()
    return logits


def _match(model: ALBEF, states: Tensor, queries: Tensor, keys_values: list[KeysValues]) -> Tensor:
    """Return ITM logits ``(n, 2)`` of texts of one length.

    Cross-attention runs on the concatenated tokens of all texts: queries are independent of each other, and the keys
    and values of the image need not be repeated.
    """
    layers = _layers(model)
    count, length, width = states.shape
    for index, (layer, (key, value)) in enumerate(zip(layers, keys_values, strict=True)):
        if index:
            states = layer.attention(states.view(count, length, width), None, cls_only=index == len(layers) - 1)
            states = states.view(1, -1, width)
            states = layer.cross_attention(states, (key, value))
        else:
            mixed = attention.dot_product(queries.flatten(0, 1).transpose(0, 1)[None], key, value)
            states = layer.cross_attention.finish(mixed, states.view(1, -1, width))
        states = layer.feed_forward(states)
    return model.itm_logits(states.view(count, -1, width)[:, 0])
