"""Image encoder: a timm vision transformer, optionally behind a convolutional stem.

B = images, N = tokens of an image (patches + [CLS]), W = width.
"""

from __future__ import annotations

from typing import Any, cast

import timm.layers
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from albef.config import ModelConfig
from albef.models.bert import init_transformer


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


class VisionEncoder(nn.Module):
    """Vision transformer that outputs all tokens, [CLS] first (paper section 3.1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        vision = config.vision
        embed: Any = ConvStem if vision.stem == "conv" else timm.layers.PatchEmbed
        self.vit = VisionTransformer(
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
        self.vit.blocks.apply(init_transformer)
        self.width = vision.width

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode normalized pixels ``(B, 3, H, H)`` as tokens ``(B, N, W)``."""
        return cast(Tensor, self.vit.forward_features(pixels))


def resize_positions(positions: Tensor, tokens: int) -> Tensor:
    """Resize position embeddings ``(1, n, W)`` to ``(1, tokens, W)``.

    The patch grid is interpolated bicubically; the [CLS] embedding is kept.

    Raises:
        ValueError: If either patch grid is not square.
    """
    if positions.shape[1] == tokens:
        return positions
    old, new = round((positions.shape[1] - 1) ** 0.5), round((tokens - 1) ** 0.5)
    if old * old != positions.shape[1] - 1 or new * new != tokens - 1:
        raise ValueError(
            f"position embeddings: cannot resize from {positions.shape[1]} to {tokens} tokens, because a patch grid "
            "is not square"
        )
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2).float()
    grid = torch.nn.functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    grid = grid.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)
    return torch.cat([positions[:, :1], grid], dim=1)
