"""Image encoder: a vision transformer of given sizes or a model of timm by its name.

B = images, N = tokens of an image (its embedding + patches), W = width.
"""

from __future__ import annotations

from typing import Any, cast

import timm.layers
import torch
import torch.nn.functional as F
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from albef.config import ModelConfig
from albef.models import attention
from albef.models.bert import init_transformer
from albef.models.encoders import check_image_size, image_model

_CLIP = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)


class ConvStem(nn.Module):
    """Patch embedding of three strided convolutions (replaces timm's ``PatchEmbed``).

    The strides are 2, 2 and ``patch_size / 4``, with channel normalization and GELU between (Xiao et al., "Early
    Convolutions Help Transformers See Better", NeurIPS 2021). Small models train much faster with it than with a single
    projection.

    Raises:
        ValueError: If the patch size is not a multiple of 4 or does not divide the image size.
    """

    def __init__(
        self, img_size: int = 224, patch_size: int = 16, in_chans: int = 3, embed_dim: int = 768, **_: Any
    ) -> None:
        super().__init__()
        if patch_size % 4 or img_size % patch_size:
            raise ValueError(
                f"model.patch_size: {patch_size} does not suit the conv stem; use a multiple of 4 that divides "
                f"image_size ({img_size})"
            )
        self.img_size = (img_size, img_size)
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        first, second = max(embed_dim // 4, 8), max(embed_dim // 2, 8)
        last = patch_size // 4
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, first, 3, 2, 1, bias=False),
            nn.GroupNorm(1, first),
            nn.GELU(),
            nn.Conv2d(first, second, 3, 2, 1, bias=False),
            nn.GroupNorm(1, second),
            nn.GELU(),
            nn.Conv2d(second, embed_dim, last, last),
        )

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Return the downsampling factor from pixels to tokens (part of timm's interface)."""
        return self.patch_size[0] if as_scalar else self.patch_size

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed ``(B, 3, H, H)`` pixels as ``(B, N - 1, W)`` tokens."""
        return cast(Tensor, self.proj(pixels)).flatten(2).transpose(1, 2)


class _Attention(timm.layers.Attention):
    """timm's self-attention, by `albef.models.attention`."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        """Map ``(B, N, W)`` to ``(B, N, W)``."""
        if attn_mask is None and not any(options.values()):
            packed = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
            return cast(Tensor, self.proj(attention.self_attention(packed).flatten(2)))
        return cast(Tensor, super().forward(x, attn_mask, **options))

    @classmethod
    def replace(cls, module: nn.Module) -> None:
        """Let a timm attention without extras run by this class; its weights and their names stay."""
        plain = type(module) is timm.layers.Attention and all(
            type(getattr(module, name, None)) in (nn.Identity, type(None))
            for name in ("q_norm", "k_norm", "norm", "gate")
        )
        if plain and module.attn_drop.p == 0 and module.proj_drop.p == 0:  # type: ignore[union-attr]
            module.__class__ = cls


class _PatchProjection(nn.Conv2d):
    """Convolution of patches that do not overlap; on GPUs, one matrix product."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels ``(B, C, H, H)`` to ``(B, W, G, G)``."""
        if not pixels.is_cuda:
            return super().forward(pixels)
        high, wide = self.kernel_size
        grid = pixels.unflatten(3, (-1, wide)).unflatten(2, (-1, high)).permute(0, 2, 4, 1, 3, 5)
        return F.linear(grid.flatten(3), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)

    @classmethod
    def replace(cls, module: nn.Module) -> None:
        """Let a convolution whose stride is its kernel run by this class."""
        if type(module) is nn.Conv2d and module.stride == module.kernel_size and module.groups == 1:
            module.__class__ = cls


class VisionEncoder(nn.Module):
    """Vision transformer that outputs the embedding of the image, then its patches (paper section 3.1).

    The embedding is what the network itself classifies: [CLS], the mean of the patches, or a pooling by attention.
    Register tokens are not part of the output.

    Pixels arrive as bytes or normalized by CLIP's statistics, as in the official code. A named model gets them by the
    statistics of its own training; this belongs to the network, so that training, export and serving cannot differ.

    Attributes:
        position_prefix: Position embeddings before those of the patches.
    """

    vit: Any
    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        vit: Any = _sized(config) if config.vision.name is None else image_model(config)
        self.vit = vit
        for block in vit.blocks:
            _Attention.replace(getattr(block, "attn", nn.Identity()))
        _PatchProjection.replace(getattr(vit.patch_embed, "proj", nn.Identity()))
        self.width = int(vit.embed_dim)
        self.position_prefix = 0 if getattr(vit, "no_embed_class", False) else int(vit.num_prefix_tokens)
        self.pooled = config.vision.name is not None and not (
            type(vit) is VisionTransformer and vit.global_pool == "token" and vit.num_prefix_tokens == 1
        )
        scale = shift = None
        if config.vision.name is not None:
            mean, std = (tuple(vit.pretrained_cfg[key]) for key in ("mean", "std"))
            if (mean, std) != _CLIP:
                own, clip = torch.tensor([mean, std])[..., None, None], torch.tensor(_CLIP)[..., None, None]
                scale, shift = clip[1] / own[1], (clip[0] - own[0]) / own[1]
        # Constants of the architecture, not weights.
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels ``(B, 3, H, H)``, bytes or normalized, as tokens ``(B, N, W)``."""
        return self.tokens(self.vit.forward_features(self.normalized(pixels)))

    def normalized(self, pixels: Tensor) -> Tensor:
        """Return pixels normalized by the statistics of the network."""
        if pixels.dtype == torch.uint8:
            # In the order of `albef.data.images.to_pixels`, to the same bits.
            mean, std = ([float(x) for x in values] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
            channels = pixels.float().div(255).unbind(1)
            pixels = torch.stack([(c - m) / s for c, m, s in zip(channels, mean, std, strict=True)], 1)
        return pixels if self.scale is None or self.shift is None else pixels * self.scale + self.shift

    def tokens(self, features: Tensor) -> Tensor:
        """Return tokens ``(B, N, W)`` of the network's last states, which have all its prefix tokens."""
        if not self.pooled:
            return features
        embedding = self.vit.forward_head(features, pre_logits=True)
        # Networks that normalize only the mean of the patches leave the patches themselves unscaled.
        patches = self.vit.fc_norm(features[:, self.vit.num_prefix_tokens :])
        return torch.cat([embedding[:, None], patches], dim=1)


def _sized(config: ModelConfig) -> nn.Module:
    """Build a vision transformer of the given sizes."""
    vision = config.vision
    check_image_size(config.image_size, config.patch_size)
    embed: Any = ConvStem if vision.stem == "conv" else timm.layers.PatchEmbed
    vit: nn.Module = VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=vision.width,
        depth=vision.depth,
        num_heads=vision.heads,
        drop_path_rate=vision.drop_path,
        num_classes=0,
        global_pool="",
        embed_layer=embed,
    )
    vit.blocks.apply(init_transformer)  # type: ignore[union-attr]
    return vit


def resize_positions(positions: Tensor, tokens: int, prefix: int = 1) -> Tensor:
    """Resize position embeddings ``(1, n, W)`` to ``(1, tokens, W)``.

    The patch grid is interpolated bicubically without antialiasing, as in the official code; timm antialiases by
    default.

    Args:
        prefix: Embeddings before those of the patches, which are kept.

    Raises:
        ValueError: If either patch grid is not square.
    """
    old, new = (max(count - prefix, 0) for count in (positions.shape[1], tokens))
    sides = [round(patches**0.5) for patches in (old, new)]
    if [side * side for side in sides] != [old, new]:
        raise ValueError(
            f"position embeddings: cannot resize from {positions.shape[1]} to {tokens} tokens, because a patch grid "
            "is not square"
        )
    resized: Tensor = timm.layers.resample_abs_pos_embed(
        positions, [sides[1]] * 2, [sides[0]] * 2, prefix, antialias=False
    )
    return resized
