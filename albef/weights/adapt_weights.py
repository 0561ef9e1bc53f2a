"""Adaptation of weights from the architecture of one task to another.

Tensor names are those of `ALBEF.state_dict`. Student and teacher are adapted alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from albef.models.albef import ALBEF
from albef.models.vision import resize_positions
from albef.tasks import registry
from albef.weights.official import CheckpointError

_FUSION_LAYER = re.compile(r"(student|teacher)\.fusion\.layers\.(\d+)\.(.+)")


def adapt(state: Mapping[str, Tensor], task: str, model: ALBEF) -> dict[str, Tensor]:
    """Adapt the weights of a model of ``task`` to ``model``.

    - Position embeddings are interpolated to the model's image size.
    - For two images per text, each fusion layer is duplicated (official ``Pretrain_nlvr.py``).
    - The answer decoder is initialized from the fusion encoder, the text embeddings and the MLM head (``VQA.py``).

    Raises:
        CheckpointError: If the source has two images per text and ``model`` one.
    """
    source, target = registry.spec(task).architecture, model.architecture
    if source.images > target.images:
        raise CheckpointError(
            f"a model for {model.task} cannot start from one for {task}, which has two images per text; start from a "
            "model with one"
        )
    expected = model.state_dict()
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("vit.pos_embed") and name in expected:
            tensor = resize_positions(tensor, expected[name].shape[1], model.student.vision.position_prefix)
        result[name] = tensor
    if target.decoder and not source.decoder:
        result |= _decoder_weights(result, expected)
    if target.images == 2 and source.images == 1:
        result = _duplicate_fusion_layers(result)
    return result


def _duplicate_fusion_layers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if (match := _FUSION_LAYER.fullmatch(name)) is None:
            result[name] = tensor
            continue
        encoders, layer, rest = match.group(1), int(match.group(2)), match.group(3)
        for copy in (2 * layer, 2 * layer + 1):
            result[f"{encoders}.fusion.layers.{copy}.{rest}"] = tensor
    return result


def _decoder_weights(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the decoder.

    Tensors whose shape differs are omitted: cross-attention, if the image width is not the text width.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        encoders, _, rest = name.partition(".")
        for old, new in (("fusion.layers.", "layers."), ("text.embeddings.", "embeddings."), ("mlm_head.", "head.")):
            if rest.startswith(old):
                target = f"{encoders}.decoder.{new}{rest.removeprefix(old)}"
                if target in expected and expected[target].shape == tensor.shape:
                    result[target] = tensor
    return result
