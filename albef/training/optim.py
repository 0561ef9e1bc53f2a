"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from timm.optim import Muon, muon
from torch import Tensor, nn

from albef.config import OptimConfig

_TOKENS = (
    ".cls_token",
    ".dist_token",
    ".freqs",
    ".latent",
    ".pos_embed",
    ".reg_token",
    ".relative_position_bias_table",
)
"""Parameters of image encoders that are tokens or positions, not linear maps."""

_WARMUP_STRIDE = 100  # iterations between warm-up updates in the official code
_NEWTON_SCHULZ_STEPS = 4  # usually 5; on a CPU each takes 4 % of a training step of a small model


class CpuMuon(Muon):
    """Muon with orthogonalization in float32.

    timm uses bfloat16 without an option to change it. Without bfloat16 instructions (AVX-512 BF16, AMX) a CPU is twenty
    times slower at it, and with them results differ between CPUs.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform an optimization step."""
        original = muon.zeropower_via_newtonschulz
        muon.zeropower_via_newtonschulz = partial(_orthogonalize, original)
        try:
            return super().step(closure)
        finally:
            muon.zeropower_via_newtonschulz = original


def _orthogonalize(
    newton_schulz: Callable[..., Tensor],
    matrix: Tensor,
    steps: int,
    coefficients: list[tuple[float, float, float]],
    eps: float,
    **options: Any,
) -> Tensor:
    """Orthogonalize a matrix in float32, like timm's ``newton_schulz``.

    An iteration multiplies X by a polynomial of A = X X^T. For a long matrix it is cheaper to iterate over A, which is
    square, and to multiply X by the product of all P once: 40 % less time for 128 x 512.
    """
    if max(matrix.shape) < 3 * min(matrix.shape):
        return newton_schulz(matrix, steps, coefficients, eps, dtype=torch.float32, **options)
    wide = matrix if matrix.shape[0] < matrix.shape[1] else matrix.mT
    wide = wide / wide.norm().clamp(min=eps)
    gram = wide @ wide.mT
    product: Tensor | None = None
    for a, b, c in coefficients[:steps]:
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal().add_(a)
        product = polynomial if product is None else polynomial @ product
        gram = polynomial @ gram @ polynomial
    result: Tensor = wide if product is None else product @ wide
    return result if matrix.shape[0] < matrix.shape[1] else result.mT


def build_optimizer(module: nn.Module, config: OptimConfig, official_quirks: bool) -> torch.optim.Optimizer:
    """Build AdamW or Muon over the trainable parameters.

    Biases and other vectors have no weight decay. The official code decays everything else, including the temperature,
    the [CLS] token and the position embeddings; this one does so only with ``official_quirks``. The learning rate of
    the temperature is scaled by ``temperature_lr_scale``, since a rate that suits the weights of a small model makes a
    scalar of 0.07 unstable. Each parameter group has its scale under the key ``lr_scale``.

    With ``kind: muon``, weight matrices and convolutions use Muon (Jordan 2024), scaled to the update size of AdamW
    (Liu et al., "Muon is Scalable for LLM Training", 2025). Everything else uses AdamW, including embeddings, which are
    lookup tables rather than linear maps.
    """
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    temperature: list[nn.Parameter] = []
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith("temperature"):
            temperature.append(parameter)
            continue
        token = name.endswith(_TOKENS)
        no_decay = parameter.ndim == 1 or name.endswith(".bias") or (token and not official_quirks)
        if config.kind == "muon" and not (no_decay or token or id(parameter) in embeddings):
            matrices.append(parameter)
        else:
            (plain if no_decay else decayed).append(parameter)
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
        groups.append({"params": matrices, "weight_decay": decay, "lr_scale": 1.0, "use_fallback": False})
    groups = [group for group in groups if group["params"]]  # only some tasks have a temperature
    betas = (0.9, config.beta2)
    if config.kind == "muon":
        kind = CpuMuon if all(p.device.type == "cpu" for group in groups for p in group["params"]) else Muon
        optimizer = kind(groups, lr=config.lr, betas=betas, nesterov=True, ns_steps=_NEWTON_SCHULZ_STEPS)
        return cast(torch.optim.Optimizer, optimizer)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=True)


def learning_rate(step: int, steps_per_epoch: int, epochs: int, config: OptimConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay.

    The cosine decays from ``lr`` to ``min_lr``. ``schedule: epoch`` is the official schedule: the cosine starts at
    epoch 0 and is updated once per epoch. Within epoch 0 the warm-up replaces it and is updated every 100 iterations,
    with effect from the next iteration.
    """
    if config.schedule == "epoch":
        epoch = step // steps_per_epoch
        warmed = max(step - 1, 0) // _WARMUP_STRIDE * _WARMUP_STRIDE
        if epoch == 0 and warmed < config.warmup_steps:
            return config.warmup_lr + (config.lr - config.warmup_lr) * warmed / config.warmup_steps
        progress = epoch / epochs
    else:
        if step < config.warmup_steps:
            return config.warmup_lr + (config.lr - config.warmup_lr) * step / config.warmup_steps
        progress = (step - config.warmup_steps) / max(steps_per_epoch * epochs - config.warmup_steps, 1)
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * progress)) / 2
