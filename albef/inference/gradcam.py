"""Grad-CAM on attention maps, for grounding (paper section 5, official ``Grounding.py``).

B = pairs, H = heads, L = text tokens, N = image tokens, G = patches per side of the image.

Gradients are computed with respect to the attention of one layer, so only the layers above it are differentiated;
weights receive no gradient.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from albef.models.albef import ALBEF
from albef.models.bert import key_mask
from albef.models.text import FusionLayer


def _check(block: int, layers: int, encoder: str) -> None:
    if not 0 <= block < layers:
        raise ValueError(f"block: {block} does not exist, the {encoder} encoder has layers 0 to {layers - 1}")


def _grid(values: Tensor) -> Tensor:
    """Reshape patches ``(..., N - 1)`` to ``(..., G, G)``."""
    side = round(values.shape[-1] ** 0.5)
    return values.reshape(*values.shape[:-1], side, side)


def itm_map(model: ALBEF, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, block: int) -> Tensor:
    """Return heat maps ``(B, L, G, G)`` of every token.

    A map is the attention of fusion layer ``block``, weighted by the gradient of the match logit. The official heat map
    of a text is the mean over all L tokens, including padding (which is 0) and [CLS].

    Raises:
        ValueError: If there is no such layer.
    """
    with torch.no_grad():
        image_embeds = model.student.vision(pixels)
    return itm_map_of(model, image_embeds, input_ids, attention_mask, block)


def itm_map_of(model: ALBEF, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor, block: int) -> Tensor:
    """Return `itm_map` for encoded images ``(B, N, W)``."""
    student = model.student
    fusion = student.fusion
    _check(block, len(fusion.layers), "fusion")
    mask = key_mask(attention_mask)
    with torch.no_grad():
        keys_values = fusion.keys_values(image_embeds)
        states = student.text(input_ids, attention_mask)
        for index in range(block):
            states = fusion.layers[index](states, mask, keys_values[index])
        layer = cast(FusionLayer, fusion.layers[block])
        key, value = keys_values[block]
        states = layer.attention(states, mask)
        query = layer.cross_attention.queries(states)
        attention = ((query @ key.transpose(-1, -2)) / query.shape[-1] ** 0.5).softmax(dim=-1)
    with torch.enable_grad():
        attention.requires_grad_()
        states = layer.feed_forward(layer.cross_attention.finish(attention @ value, states))
        last = len(fusion.layers) - 1
        for index in range(block + 1, len(fusion.layers)):
            states = fusion.layers[index](states, mask, keys_values[index], index == last)
        match = model.itm_logits(states[:, 0])[:, 1].sum()
        (gradient,) = torch.autograd.grad(match, attention)
    cam = (attention.detach() * gradient.clamp(min=0))[..., 1:] * attention_mask[:, None, :, None]
    return _grid(cam.mean(dim=1))


def itc_map(model: ALBEF, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, block: int) -> Tensor:
    """Return heat maps ``(B, G, G)`` from the image encoder.

    A map is the attention of the image's [CLS] in ViT block ``block``, weighted by the gradient of the ITC similarity.

    Raises:
        ValueError: If there is no such block, or the image encoder does not embed images by [CLS].
    """
    student = model.student
    vit: Any = student.vision.vit
    _check(block, len(vit.blocks), "image")
    layer = vit.blocks[block]
    embeds_by_cls = type(vit) is VisionTransformer and vit.has_class_token and vit.global_pool in ("", "token")
    if not embeds_by_cls or type(layer) is not Block or not isinstance(layer.attn, Attention):
        raise ValueError(
            f"mode: itc needs the attention of [CLS], which the image encoder {model.config.vision.name} does not "
            "provide; use itm"
        )
    with torch.no_grad():
        _, text_feat = student.encode_text(input_ids, attention_mask)
        states = vit.patch_embed(student.vision.normalized(pixels))
        states = vit.norm_pre(vit.patch_drop(vit._pos_embed(states)))
        for index in range(block):
            states = vit.blocks[index](states)
        attn = layer.attn
        normed = layer.norm1(states)
        query, key, value = attn.qkv(normed).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = attn.q_norm(query), attn.k_norm(key)
        attention = ((query * attn.scale) @ key.transpose(-1, -2)).softmax(dim=-1)
    with torch.enable_grad():
        attention.requires_grad_()
        mixed = attn.proj(attn.norm((attention @ value).transpose(1, 2).flatten(2)))
        states = states + layer.drop_path1(layer.ls1(mixed))
        states = states + layer.drop_path2(layer.ls2(layer.mlp(layer.norm2(states))))
        for index in range(block + 1, len(vit.blocks)):
            states = vit.blocks[index](states)
        embeds = student.vision.tokens(vit.norm(states))
        feat = torch.nn.functional.normalize(student.vision_proj(embeds[:, 0]), dim=-1)
        similarity = (feat * text_feat).sum() / model.temperature.detach()
        (gradient,) = torch.autograd.grad(similarity, attention)
    cam = (attention.detach() * gradient.clamp(min=0))[:, :, 0, vit.num_prefix_tokens :]
    return _grid(cam.mean(dim=1))


def heat_map(model: ALBEF, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, mode: str, block: int) -> Tensor:
    """Return heat maps ``(B, G, G)`` of texts.

    Args:
        model: Must be in evaluation mode.
        mode: ``itm`` or ``itc``; see `itm_map` and `itc_map`.
    """
    if mode == "itm":
        return itm_map(model, pixels, input_ids, attention_mask, block).mean(dim=1)
    return itc_map(model, pixels, input_ids, attention_mask, block)
