"""What a task's model takes over from the model of another stage besides the parts of the same name.

Names are those of `ALBEF.state_dict`; student and teacher are treated alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from albef.models.albef import ALBEF
from albef.models.architecture import architecture_of
from albef.models.vision import resize_positions
from albef.weights.official import CheckpointError

_FUSION_LAYER = re.compile(r"(student|teacher)\.fusion\.layers\.(\d+)\.(.+)")


def adapt(state: Mapping[str, Tensor], task: str, model: ALBEF) -> dict[str, Tensor]:
    """Tensors of a model of ``task`` as ``model`` wants them.

    - Position embeddings are interpolated to the model's image size.
    - Two images a text: every fusion layer becomes a pair (official ``Pretrain_nlvr.py``).
    - The answer decoder starts as the fusion encoder with the text's embeddings and the MLM head (``VQA.py``).

    Raises:
        CheckpointError: If the layers of pairs would have to become single ones.
    """
    source, target = architecture_of(task), model.architecture
    if source.images > target.images:
        raise CheckpointError(f"a model for {model.task} cannot start from one for {task}, which looks at two images")
    own = model.state_dict()
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("vit.pos_embed") and name in own:
            tensor = resize_positions(tensor, own[name].shape[1])
        result[name] = tensor
    if target.decoder and not source.decoder:
        result |= _decoder(result, own)
    if target.images == 2 and source.images == 1:
        result = _double(result)
    return result


def _double(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if (found := _FUSION_LAYER.fullmatch(name)) is None:
            result[name] = tensor
            continue
        tower, layer, rest = found.group(1), int(found.group(2)), found.group(3)
        for twin in (2 * layer, 2 * layer + 1):
            result[f"{tower}.fusion.layers.{twin}.{rest}"] = tensor
    return result


def _decoder(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Decoder tensors by their new names; what does not fit (images wider than text) is left out."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        tower, _, rest = name.partition(".")
        for room, new in (("fusion.layers.", "layers."), ("text.embeddings.", "embeddings."), ("mlm_head.", "head.")):
            if rest.startswith(room):
                target = f"{tower}.decoder.{new}{rest.removeprefix(room)}"
                if target in own and own[target].shape == tensor.shape:
                    result[target] = tensor
    return result
