"""Compilation of a model by regions.

A region is a layer or a loss. Regions are small, equal ones share their code, and what lies between them, such as the
kernels of `albef.models.attention`, runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from albef.losses.itc import itc_loss
from albef.losses.mlm import mlm_loss
from albef.models.albef import ALBEF, Encoders

_VARIANTS = 64
"""Most compiled forms of a region: by type of layer, student or teacher, with or without gradients, and by shape."""


def compile_regions(model: ALBEF, fixed_shapes: bool, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the layers and losses of a model, in place.

    A region that cannot be compiled raises an error when it first runs. Evaluation, whose shapes vary more, should run
    the layers as they are: ``torch.compiler.set_stance("force_eager")``.

    Args:
        fixed_shapes: Compile for every shape anew; otherwise sizes that vary become variables of the code.
        backend: Of ``torch.compile``.
    """
    torch._dynamo.config.recompile_limit = _VARIANTS
    options: dict[str, Any] = {"fullgraph": True, "dynamic": False if fixed_shapes else None, "backend": backend}
    for encoders in (model.student, *([model.teacher] if model.architecture.teacher else [])):
        _compile_encoders(encoders, options)
    compiled = partial(torch.compile, **options)
    model.regions = {loss: compiled(loss) for loss in (itc_loss, mlm_loss)}


def _compile_encoders(encoders: Encoders, options: dict[str, Any]) -> None:
    vision: Any = encoders.vision
    vision.normalized = torch.compile(vision.normalized, **options)
    modules: list[Any] = [vision.vit.patch_embed, *vision.vit.blocks, vision.vit.norm]
    modules += [encoders.text.embeddings, *encoders.text.layers]
    for layer in encoders.fusion.layers:
        module: Any = layer
        module.fuse = torch.compile(module.fuse, **options)
        modules.append(module)
    if encoders.architecture.mlm:
        modules.append(encoders.mlm_head)
    for module in modules:
        module.compile(**options)
