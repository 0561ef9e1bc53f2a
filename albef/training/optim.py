"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from timm.optim import Muon, muon
from torch import nn

from albef.config import OptimConfig

_WARMUP_STRIDE = 100  # the official code moves its warm-up every 100 iterations
_NEWTON_SCHULZ_STEPS = (
    4  # of an update's orthogonalisation; 5 are usual, on a CPU each costs 4 % of a small model's step
)


class CpuMuon(Muon):
    """Muon whose orthogonalisation is in float32.

    timm's is in bfloat16 and cannot be told otherwise. A CPU without instructions for that (AVX-512 BF16, AMX) takes
    twenty times as long for it, and one with them comes to other weights.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, as of any optimiser."""
        usual = muon.zeropower_via_newtonschulz
        muon.zeropower_via_newtonschulz = partial(usual, dtype=torch.float32)
        try:
            return super().step(closure)
        finally:
            muon.zeropower_via_newtonschulz = usual


def build_optimizer(module: nn.Module, config: OptimConfig, official_quirks: bool) -> torch.optim.Optimizer:
    """AdamW or Muon over the trainable parameters; biases and other vectors are not decayed.

    The official rule decays all else, among it the temperature, the [CLS] token and the position embeddings; only
    ``official_quirks`` keeps that. The temperature has its own fraction of the learning rate: a rate that suits a small
    model's weights would throw a scalar of 0.07 about. The group key ``lr_scale`` holds the share.

    With ``kind: muon`` matrices and convolutions move along the orthogonalised momentum (Muon, Jordan 2024), scaled to
    AdamW's usual step (Liu et al., "Muon is Scalable for LLM Training", 2025), and all else by AdamW. Embeddings are
    tables, not maps, and stay with AdamW.
    """
    mapped: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    temperature: list[nn.Parameter] = []
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith("temperature"):
            temperature.append(parameter)
            continue
        token = name.endswith((".cls_token", ".pos_embed"))
        spared = parameter.ndim == 1 or name.endswith(".bias") or (token and not official_quirks)
        if config.kind == "muon" and not (spared or token or id(parameter) in tables):
            mapped.append(parameter)
        else:
            (plain if spared else decayed).append(parameter)
    decay = config.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": decay, "lr_scale": 1.0},
        {"params": plain, "weight_decay": 0.0, "lr_scale": 1.0},
        {
            "params": temperature,
            "weight_decay": decay if official_quirks else 0.0,
            "lr_scale": config.temperature_lr_scale,
        },
    ]
    if config.kind == "muon":
        groups = [{**group, "use_fallback": True} for group in groups]
        groups.append({"params": mapped, "weight_decay": decay, "lr_scale": 1.0, "use_fallback": False})
    groups = [group for group in groups if group["params"]]  # only some tasks have a temperature
    betas = (0.9, config.beta2)
    if config.kind == "muon":
        kind = CpuMuon if all(p.device.type == "cpu" for group in groups for p in group["params"]) else Muon
        made = kind(groups, lr=config.lr, betas=betas, nesterov=True, ns_steps=_NEWTON_SCHULZ_STEPS)
        return cast(torch.optim.Optimizer, made)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=True)


def learning_rate(step: int, steps_per_epoch: int, epochs: int, config: OptimConfig) -> float:
    """Learning rate of a step: linear warm-up, then a cosine from ``lr`` to ``min_lr``.

    With ``schedule: epoch`` this is the official schedule: the cosine moves once an epoch and starts at epoch 0,
    the warm-up replaces it within epoch 0 and moves every 100 iterations (taking effect one later).
    """
    if config.schedule == "epoch":
        epoch = step // steps_per_epoch
        warmed = max(step - 1, 0) // _WARMUP_STRIDE * _WARMUP_STRIDE
        if epoch == 0 and warmed < config.warmup_steps:
            return config.warmup_lr + (config.lr - config.warmup_lr) * warmed / config.warmup_steps
        share = epoch / epochs
    else:
        if step < config.warmup_steps:
            return config.warmup_lr + (config.lr - config.warmup_lr) * step / config.warmup_steps
        share = (step - config.warmup_steps) / max(steps_per_epoch * epochs - config.warmup_steps, 1)
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * share)) / 2
