"""Tests of learning rate schedules, parameter groups and Muon."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools

import pytest
import torch
from timm.optim import muon
from torch import nn

from albef.config import OptimConfig
from albef.models.albef import ALBEF
from albef.training.optim import build_optimizer, learning_rate
from tests.worlds import tiny_config

OFFICIAL = OptimConfig(
    kind="adamw",
    lr=1e-4,
    min_lr=1e-5,
    warmup_lr=1e-5,
    warmup_steps=2000,
    weight_decay=0.02,
    beta2=0.999,
    clip=0.0,
    temperature_lr_scale=1.0,
    schedule="epoch",
)

QUINTIC = [(4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046)]
"""Coefficients of Muon's iterations, https://leloykun.github.io/ponder/muon-opt-coeffs."""


def test_official_epoch_rates() -> None:
    """The pretraining configuration's epoch rates: 1e-4, 9.98e-5 ... 5.5e-5 at 15 ... 1.02e-5 at 29."""
    rate = {e: learning_rate(e * 10_000 + 5_000, 10_000, 30, OFFICIAL) for e in (0, 1, 15, 29)}
    assert rate[0] == pytest.approx(1e-4)
    assert rate[1] == pytest.approx(9.98e-5, rel=1e-3)
    assert rate[15] == pytest.approx(5.5e-5, rel=1e-3)
    assert rate[29] == pytest.approx(1.02e-5, rel=1e-2)


@pytest.mark.parametrize(
    ("epochs", "lr", "expected"),
    [
        (5, 1e-5, [1e-5, 9.14e-6, 6.89e-6, 4.11e-6, 1.86e-6]),
        (8, 2e-5, [2e-5, 1.93e-5, 1.72e-5, 1.41e-5, 1.05e-5, 6.86e-6, 3.78e-6, 1.72e-6]),
    ],
)
def test_official_finetune_rates(epochs: int, lr: float, expected: list[float]) -> None:
    config = dataclasses.replace(OFFICIAL, lr=lr, min_lr=1e-6, warmup_steps=100)
    assert [learning_rate(e * 500 + 200, 500, epochs, config) for e in range(epochs)] == pytest.approx(
        expected, rel=3e-3
    )


def test_official_warmup_moves_every_hundred_steps_one_late() -> None:
    assert learning_rate(0, 10_000, 30, OFFICIAL) == learning_rate(100, 10_000, 30, OFFICIAL) == pytest.approx(1e-5)
    assert learning_rate(101, 10_000, 30, OFFICIAL) == pytest.approx(1e-5 + 9e-5 * 100 / 2000)
    # An epoch shorter than the warm-up jumps to the cosine.
    assert learning_rate(50, 50, 30, OFFICIAL) == pytest.approx(9.98e-5, rel=1e-3)


def test_step_schedule_is_continuous_and_ends_at_min_lr() -> None:
    config = dataclasses.replace(OFFICIAL, schedule="step", warmup_steps=10)
    rates = [learning_rate(s, 50, 2, config) for s in range(100)]
    assert rates[10] == pytest.approx(config.lr)
    assert max(abs(a - b) for a, b in itertools.pairwise(rates[10:])) < 0.02 * config.lr
    assert rates[-1] == pytest.approx(config.min_lr, rel=0.01)


@pytest.mark.parametrize("official_quirks", [True, False])
def test_weight_decay_groups(official_quirks: bool) -> None:
    """Officially the temperature, [CLS] and positions are decayed, vectors and biases are not."""
    model = ALBEF(tiny_config().model, 64)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = build_optimizer(model, OFFICIAL, official_quirks).param_groups
    decayed, plain, own = ({names[id(p)] for p in group["params"]} for group in groups)
    assert own == {"temperature"}
    assert groups[2]["weight_decay"] == (OFFICIAL.weight_decay if official_quirks else 0.0)
    assert {"student.vision.vit.cls_token", "student.vision.vit.pos_embed"} <= (decayed if official_quirks else plain)
    assert "student.text.layers.0.attention.qkv.bias" in plain
    assert "student.text.layers.0.attention.qkv.weight" in decayed
    assert not any(n.startswith("teacher.") for n in decayed | plain)


@pytest.mark.parametrize("official_quirks", [True, False])
def test_muon_moves_maps_and_adamw_the_rest(official_quirks: bool) -> None:
    model = ALBEF(tiny_config().model, 64)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = build_optimizer(model, dataclasses.replace(OFFICIAL, kind="muon"), official_quirks).param_groups
    mapped = {names[id(p)] for g in groups if not g["use_fallback"] for p in g["params"]}
    others = {names[id(p)] for g in groups if g["use_fallback"] for p in g["params"]}
    assert {"student.text.layers.0.attention.qkv.weight", "itm_head.weight", "student.vision_proj.weight"} <= mapped
    assert {
        "temperature",
        "student.text.embeddings.word.weight",
        "student.vision.vit.cls_token",
        "student.vision.vit.pos_embed",
        "student.text.layers.0.attention.qkv.bias",
    } <= others
    assert mapped | others == {n for n, p in model.named_parameters() if p.requires_grad}


def test_muon_step_is_orthogonal_and_its_state_goes_on() -> None:
    """A step has the same length in every direction, independent of the gradient's scale.

    The singular values of a step are about 0.2 * sqrt(longest side) * lr.
    """
    torch.manual_seed(0)
    config = dataclasses.replace(OFFICIAL, kind="muon", lr=1e-2, weight_decay=0.0)
    module = nn.Linear(24, 12)
    optimizer = build_optimizer(module, config, official_quirks=False)
    before = module.weight.detach().clone()
    module.weight.grad, module.bias.grad = 1e-3 * torch.randn(12, 24), torch.zeros(12)
    optimizer.step()
    moved = torch.linalg.svdvals((module.weight.detach() - before) / (0.2 * 24**0.5 * config.lr))
    assert moved.min() > 0.5
    assert moved.max() < 1.5
    twin = copy.deepcopy(module)
    again = build_optimizer(twin, config, official_quirks=False)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, its in ((module, optimizer), (twin, again)):
        each.weight.grad, each.bias.grad = torch.ones(12, 24), torch.ones(12)
        its.step()
    assert torch.equal(module.weight, twin.weight)
    assert torch.equal(module.bias, twin.bias)


def test_muon_is_precise_on_a_cpu() -> None:
    """A gradient's scale changes nothing: in bfloat16 it would, by a hundredth."""
    torch.manual_seed(0)
    config = dataclasses.replace(OFFICIAL, kind="muon", lr=1.0, weight_decay=0.0)
    gradient, moved = torch.randn(12, 24), []
    for scale in (1.0, 0.3):
        module = nn.Linear(24, 12, bias=False)
        nn.init.zeros_(module.weight)
        module.weight.grad = scale * gradient
        build_optimizer(module, config, official_quirks=False).step()
        moved.append(module.weight.detach())
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-4, atol=1e-5)
    assert inspect.isfunction(muon.zeropower_via_newtonschulz)  # timm's own again


@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (24, 24), (24, 60)])
def test_muon_orthogonalizes_long_matrices_as_timm_does(shape: tuple[int, int]) -> None:
    """Also if the singular values spread over five orders of magnitude."""
    torch.manual_seed(0)
    config = dataclasses.replace(OFFICIAL, kind="muon", lr=1.0, weight_decay=0.0)
    module = nn.Linear(shape[1], shape[0], bias=False)
    nn.init.zeros_(module.weight)
    left, _, right = torch.linalg.svd(torch.randn(*shape), full_matrices=False)
    gradient = left * 10 ** -torch.linspace(0, 5, min(shape)) @ right
    module.weight.grad = gradient
    optimizer = build_optimizer(module, config, official_quirks=False)
    optimizer.step()
    (group,) = optimizer.param_groups
    expected = muon.zeropower_via_newtonschulz(gradient.double(), group["ns_steps"], QUINTIC, dtype=torch.float64)
    torch.testing.assert_close(module.weight.double(), -0.2 * max(shape) ** 0.5 * expected, rtol=1e-4, atol=1e-4)
