"""Tests of encoders by name, with random weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from albef.config import ConfigError, ModelConfig
from albef.data.images import MEAN, STD
from albef.inference.gradcam import heat_map
from albef.models.albef import ALBEF
from albef.models.encoders import resolve
from albef.models.vision import VisionEncoder
from albef.training.optim import build_optimizer
from tests.errors import refuses
from tests.worlds import tiny_config

PLAIN = ("vit_tiny_patch16_224", "vit_small_patch14_dinov2", "deit3_small_patch16_224")
REGISTERS = ("vit_small_patch14_reg4_dinov2", "deit_tiny_distilled_patch16_224")
POOLED = (
    "vit_base_patch16_siglip_224",
    "eva02_tiny_patch14_224",
    "beit_base_patch16_224",
    "vit_relpos_small_patch16_224",
    "vit_small_patch16_dinov3",
)


def config(name: str, depth: int | None = 1, **model: Any) -> ModelConfig:
    base = tiny_config().model
    vision = dataclasses.replace(
        base.vision, name=name, width=None, depth=depth, heads=None, stem=None, **model.pop("vision", {})
    )
    size = 28 if "patch14" in name else 32
    return dataclasses.replace(base, **{"image_size": size, "patch_size": None, "vision": vision, **model})


def settled(encoder: VisionEncoder) -> VisionEncoder:
    """An encoder whose layers of zeros, such as layer scales, matter."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return encoder.eval()


@pytest.mark.parametrize("name", PLAIN + REGISTERS + POOLED)
def test_a_named_image_encoder_gives_its_embedding_and_its_patches(name: str) -> None:
    torch.manual_seed(1)
    encoder = settled(VisionEncoder(given := config(name)))
    raw = torch.rand(2, 3, given.image_size, given.image_size)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    with torch.no_grad():
        tokens = encoder((raw - mean) / std)
        # As timm itself computes them, from pixels normalized as its own data pipeline does.
        cfg = encoder.vit.pretrained_cfg
        own = (raw - torch.tensor(cfg["mean"])[:, None, None]) / torch.tensor(cfg["std"])[:, None, None]
        torch.testing.assert_close(tokens[:, 0], encoder.vit(own), rtol=0, atol=1e-4)
        patches = encoder.vit.forward_features(own)[:, -4:]
    assert tokens.shape == (2, 5, encoder.width)
    if isinstance(encoder.vit.fc_norm, nn.Identity):
        torch.testing.assert_close(tokens[:, 1:], patches, rtol=0, atol=1e-4)
    else:
        torch.testing.assert_close(tokens[:, 1:], encoder.vit.fc_norm(patches), rtol=0, atol=1e-4)


def test_sizes_of_a_name_are_looked_up_and_overridden() -> None:
    sizes = resolve(config("vit_small_patch14_dinov2"))
    assert (sizes.patch_size, sizes.vision.width, sizes.vision.depth, sizes.vision.heads) == (14, 384, 1, 6)
    assert resolve(sizes) == sizes
    smaller = config("vit_tiny_patch16_224", depth=2, patch_size=8)
    smaller = dataclasses.replace(smaller, vision=dataclasses.replace(smaller.vision, width=48, heads=4))
    encoder = VisionEncoder(smaller)
    assert (encoder.width, len(encoder.vit.blocks), encoder.vit.blocks[0].attn.num_heads) == (48, 2, 4)
    assert encoder(torch.randn(1, 3, 32, 32)).shape == (1, 17, 48)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("swin_tiny_patch4_window7_224", {}, ("swin_tiny", "vision_transformer", "eva")),
        ("resnet18", {}, ("resnet18", "vision_transformer", "eva")),
        ("vit_small_r26_s32_224", {}, ("vit_small_r26_s32_224", "vision_transformer")),  # convolutions come first
        ("vit_smal_patch14_dinov2", {}, ("vit_smal_patch14_dinov2", "vit_small_patch14_dinov2")),
        ("vit_small_patch14_dinov2", {"image_size": 32}, ("image_size", "14", "28", "42")),
        ("vit_tiny_patch16_224", {"vision": {"stem": "conv"}}, ("model.vision.stem",)),
        ("vit_tiny_patch16_224", {"vision": {"heads": 7}}, ("model.vision", "vit_tiny_patch16_224")),
    ],
)
def test_an_image_encoder_that_does_not_fit(name: str, changes: dict[str, Any], expected: tuple[str, ...]) -> None:
    vision = changes.get("vision", {})
    given = config(name, None, **{key: value for key, value in changes.items() if key != "vision"})
    given = dataclasses.replace(given, vision=dataclasses.replace(given.vision, **vision))
    with pytest.raises(ConfigError) as error:
        resolve(given)
    assert all(word in str(error.value) for word in expected)


def test_no_size_without_a_name() -> None:
    given = tiny_config().model
    with pytest.raises(ConfigError) as error:
        ALBEF(dataclasses.replace(given, vision=dataclasses.replace(given.vision, width=None)), 30)
    assert "model.vision.width" in str(error.value)


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_224"])
def test_heat_maps_of_a_named_encoder(name: str) -> None:
    torch.manual_seed(2)
    model = ALBEF(given := config(name, vision={}), 30, "grounding").eval()
    settled(model.student.vision)
    pixels = torch.randn(2, 3, given.image_size, given.image_size)
    ids, mask = torch.randint(30, (2, 5)), torch.ones(2, 5, dtype=torch.long)
    assert heat_map(model, pixels, ids, mask, "itm", 1).shape == (2, 2, 2)
    if "dinov2" in name:
        assert heat_map(model, pixels, ids, mask, "itc", 0).sum() > 0
    else:
        with refuses(ValueError, "itm"):
            heat_map(model, pixels, ids, mask, "itc", 0)


def test_tokens_and_positions_are_no_matrices_for_muon() -> None:
    names = ("vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_224", "beit_base_patch16_224")
    for name in names:
        encoder = VisionEncoder(config(name))
        optimizer = build_optimizer(encoder, tiny_config().pretrain.optim, official_quirks=False)
        mapped = {id(p) for group in optimizer.param_groups if not group["use_fallback"] for p in group["params"]}
        linear = {id(m.weight) for m in encoder.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        assert mapped
        assert mapped <= linear
