"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from albef.config import OptimConfig

_WARMUP_STRIDE = 100  # the official code moves its warm-up every 100 iterations


def build_optimizer(module: nn.Module, config: OptimConfig, faithful: bool) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; biases and other vectors are not decayed.

    The official rule decays all else, among it the temperature, the [CLS] token and the position embeddings; only
    ``faithful`` keeps that. The temperature moves at its own share of the learning rate: a rate that suits a small
    model's weights would throw a scalar of 0.07 about. The group key ``lr_scale`` holds the share.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    temperature: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith("temperature"):
            temperature.append(parameter)
            continue
        spared = parameter.ndim == 1 or name.endswith(".bias")
        if not faithful:
            spared = spared or name.endswith((".cls_token", ".pos_embed"))
        (plain if spared else decayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay, "lr_scale": 1.0},
        {"params": plain, "weight_decay": 0.0, "lr_scale": 1.0},
        {
            "params": temperature,
            "weight_decay": config.weight_decay if faithful else 0.0,
            "lr_scale": config.temperature_lr_scale,
        },
    ]
    groups = [group for group in groups if group["params"]]  # only some tasks have a temperature
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, config.beta2), fused=True)


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
