"""Tests of Grad-CAM against automatic differentiation through the whole model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from albef.inference.gradcam import heat_map, itc_map, itm_map
from albef.models.albef import ALBEF
from tests.errors import refuses
from tests.worlds import tiny_config


@pytest.fixture(scope="module")
def model() -> ALBEF:
    torch.manual_seed(0)
    model = ALBEF(tiny_config().model, 64, "grounding").eval()
    with torch.no_grad():  # attention that differs from place to place
        for name, value in model.student.named_parameters():
            if value.ndim > 1 and "embeddings" not in name:
                value.mul_(2.0)
    return model


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    mask = torch.ones(3, 6, dtype=torch.long)
    mask[1, 4:] = 0
    mask[2, 2:] = 0
    return torch.randn(3, 3, 32, 32), torch.randint(5, 64, (3, 6)), mask


def _attentions(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every attention matrix of what runs from now on, in order, open to differentiation."""
    found: list[Tensor] = []

    def explicit(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0) -> Tensor:
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        found.append(scores.softmax(dim=-1))
        return found[-1] @ value

    monkeypatch.setattr("albef.models.attention.dot_product", explicit)
    return found


@pytest.mark.parametrize("block", [0, 1])
def test_itm_map(
    model: ALBEF, inputs: tuple[Tensor, Tensor, Tensor], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    actual = itm_map(model, *inputs, block)
    found = _attentions(monkeypatch)
    fused = model.student.fuse(*inputs)
    # Image blocks, text layers, then two attentions a fusion layer, the second of them to the image.
    attention = found[2 + 1 + 2 * block + 1]
    assert attention.shape == (3, 2, 6, 5)
    (gradient,) = torch.autograd.grad(model.itm_head(fused[:, 0])[:, 1].sum(), attention)
    expected = (attention * gradient.relu())[..., 1:].mean(dim=1) * inputs[2][..., None]
    assert expected.abs().max() > 0
    torch.testing.assert_close(actual, expected.detach().unflatten(-1, (2, 2)), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(heat_map(model, *inputs, "itm", block), actual.mean(dim=1))


@pytest.mark.parametrize("block", [0, 1])
def test_itc_map(
    model: ALBEF, inputs: tuple[Tensor, Tensor, Tensor], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    actual = heat_map(model, *inputs, "itc", block)
    found = _attentions(monkeypatch)
    _, image_feat = model.encode_image(inputs[0])
    _, text_feat = model.encode_text(*inputs[1:])
    similarity = (image_feat @ text_feat.T).diagonal().sum() / model.temperature
    (gradient,) = torch.autograd.grad(similarity, found[block])
    expected = (found[block] * gradient.relu())[:, :, 0, 1:].mean(dim=1)
    assert expected.abs().max() > 0
    torch.testing.assert_close(actual, expected.detach().unflatten(-1, (2, 2)), rtol=1e-4, atol=1e-7)


def test_padding_has_no_heat_and_changes_none(model: ALBEF, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    pixels, ids, mask = inputs
    maps = itm_map(model, *inputs, 0)
    assert maps[mask == 0].abs().max() == 0
    assert maps[mask == 1].abs().amax(dim=(1, 2)).min() > 0
    alone = itm_map(model, pixels[2:], ids[2:, :2], mask[2:, :2], 0)
    torch.testing.assert_close(maps[2:, :2], alone, rtol=1e-4, atol=1e-7)


def test_weights_take_no_gradient(model: ALBEF, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    heat_map(model, *inputs, "itm", 1)
    heat_map(model, *inputs, "itc", 1)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("block", [-1, 2])
def test_a_layer_that_is_not_there_is_refused(model: ALBEF, inputs: tuple[Tensor, Tensor, Tensor], block: int) -> None:
    with refuses(ValueError, "block", block, "fusion"):
        itm_map(model, *inputs, block)
    with refuses(ValueError, "block", block, "image"):
        itc_map(model, *inputs, block)
