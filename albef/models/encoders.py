"""Encoders by name: vision transformers of timm, BERT-like models of transformers.

`IMAGE_MODULES` and `TEXT_FAMILIES` are the registries of what fits. `resolve` replaces the sizes that the parameters
leave to a named encoder, so that a model file describes its model without the name being looked up again.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from albef.config import ConfigError, ModelConfig, TextConfig

IMAGE_MODULES = ("beit", "deit", "eva", "vision_transformer", "vision_transformer_relpos")
"""Modules of timm whose models are one stack of transformer blocks over the patches of an image."""
_EXAMPLES = "vit_base_patch16_224, vit_small_patch14_dinov2, vit_base_patch16_siglip_224 or eva02_tiny_patch14_224"


@dataclass(frozen=True)
class TextFamily:
    """Differences of a model type of transformers from BERT.

    Args:
        prefix: Prefix of the encoder's tensors in models with a head.
        head: Tensor names of the MLM head by those of BERT; other heads are ignored.
        padded_positions: Positions are numbered from the id of the padding token + 1 instead of from 0.
    """

    prefix: str
    head: Mapping[str, str]
    padded_positions: bool = False


_HEAD = "cls.predictions."
_ROBERTA = TextFamily(
    prefix="roberta.",
    head={
        "lm_head.dense.": f"{_HEAD}transform.dense.",
        "lm_head.layer_norm.": f"{_HEAD}transform.LayerNorm.",
        "lm_head.decoder.": f"{_HEAD}decoder.",
        "lm_head.bias": f"{_HEAD}bias",
    },
    padded_positions=True,
)
TEXT_FAMILIES = {
    "bert": TextFamily(prefix="bert.", head={_HEAD: _HEAD}),
    "camembert": _ROBERTA,
    "electra": TextFamily(prefix="electra.", head={}),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}
"""Model types of transformers whose layers are those of `albef.models.bert`."""


def image_model(config: ModelConfig) -> nn.Module:
    """Build the timm model ``config.vision.name`` for the image size of ``config``, with random weights.

    Raises:
        ConfigError: If timm has no such model, it does not fit, or the patch size does not divide the image size.
    """
    import timm

    vision, name = config.vision, str(config.vision.name)
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(module=list(IMAGE_MODULES)), 3)
        raise ConfigError(
            f"model.vision.name: timm has no model {name}; expected {' or '.join(similar) or _EXAMPLES}, or another "
            "transformer of timm.list_models()"
        )
    if not timm.models.is_model_in_modules(name, IMAGE_MODULES):
        raise ConfigError(_unfit(name))
    if vision.stem == "conv":
        raise ConfigError(
            f"model.vision.stem: conv, expected null or patch, because {name} has its own patch embedding"
        )
    overrides = {"embed_dim": vision.width, "depth": vision.depth, "num_heads": vision.heads}
    try:
        vit: nn.Module = timm.create_model(
            name,
            img_size=config.image_size,
            patch_size=config.patch_size,
            num_classes=0,
            drop_path_rate=vision.drop_path,
            **overrides,
        )
    except Exception as error:  # timm checks sizes by assertions, and some models have no such argument
        reason = str(error) or type(error).__name__
        raise ConfigError(f"model.vision: cannot build {name} of timm with these sizes ({reason})") from error
    if not isinstance(vit.patch_embed, timm.layers.PatchEmbed):  # convolutional network before the transformer
        raise ConfigError(_unfit(name))
    check_image_size(config.image_size, int(vit.patch_embed.patch_size[0]))
    return vit


def _unfit(name: str) -> str:
    return (
        f"model.vision.name: {name} is no plain vision transformer; expected a model of timm's modules "
        f"{', '.join(IMAGE_MODULES)}, such as {_EXAMPLES}"
    )


def check_image_size(image_size: int, patch_size: int) -> None:
    """Check that patches tile the image.

    Raises:
        ConfigError: If the patch size does not divide the image size.
    """
    if image_size % patch_size:
        below = max(image_size // patch_size, 1) * patch_size
        raise ConfigError(
            f"model.image_size: {image_size} is not a multiple of the patch size {patch_size}; use {below} or "
            f"{below + patch_size}"
        )


def text_family(settings: Mapping[str, Any]) -> TextFamily:
    """Return the family of a text encoder.

    Args:
        settings: Content of ``config.json``; without ``model_type`` it is a BERT.

    Raises:
        ValueError: If the model does not have the layers of a BERT.
    """
    name = settings.get("model_type", "bert")
    if name not in TEXT_FAMILIES:
        raise ValueError(f"model_type is {name!r} in its config.json, expected one of {', '.join(TEXT_FAMILIES)}")
    width = settings.get("hidden_size")
    for key, expected in (("hidden_act", "gelu"), ("position_embedding_type", "absolute"), ("embedding_size", width)):
        if (actual := settings.get(key, expected)) != expected:
            raise ValueError(f"{key} is {actual!r} in its config.json, expected {expected!r}")
    return TEXT_FAMILIES[name]


def first_position(settings: Mapping[str, Any]) -> int:
    """Return the row of the first token's position embedding.

    Raises:
        ValueError: If the model does not have the layers of a BERT.
    """
    return int(settings.get("pad_token_id") or 0) + 1 if text_family(settings).padded_positions else 0


def resolve(config: ModelConfig) -> ModelConfig:
    """Return the configuration with the sizes of the named encoders.

    Raises:
        ConfigError: If a name is unknown or does not fit, or a size is missing without a name.
    """
    vision = config.vision
    if vision.name is not None and None in (config.patch_size, vision.width, vision.depth, vision.heads, vision.stem):
        with torch.device("meta"):
            vit: Any = image_model(config)
        heads = next(module.num_heads for module in vit.blocks.modules() if hasattr(module, "num_heads"))
        vision = replace(vision, width=vit.embed_dim, depth=len(vit.blocks), heads=heads, stem="patch")
        config = replace(config, patch_size=int(vit.patch_embed.patch_size[0]), vision=vision)
    config = replace(config, text=_resolve_text(config.text))
    for key, part in (("vision", config.vision), ("text", config.text)):
        if part.width is not None and part.heads is not None and part.width % part.heads:
            raise ConfigError(f"model.{key}.heads: {part.heads} does not divide model.{key}.width ({part.width})")
    for where, section in (("model", config), ("model.vision", config.vision), ("model.text", config.text)):
        for field in fields(section):
            if "named_by" in field.metadata and getattr(section, field.name) is None:
                raise ConfigError(
                    f"{where}.{field.name}: null, expected a value unless {where}.{field.metadata['named_by']} is given"
                )
    return config


def _resolve_text(config: TextConfig) -> TextConfig:
    sizes = ("width", "layers", "fusion_layers", "heads", "ffn", "max_positions")
    if config.name is None or None not in [getattr(config, key) for key in (*sizes, "norm_eps")]:
        return config
    settings = _text_settings(config.name)
    try:
        first = first_position(settings)
    except ValueError as error:
        raise ConfigError(f"model.text.name: {config.name}: {error}") from error
    total = int(settings["num_hidden_layers"])
    rest = total // 2 if config.fusion_layers is None else total - config.fusion_layers
    layers = rest if config.layers is None else config.layers
    named = {
        "width": settings["hidden_size"],
        "layers": layers,
        "fusion_layers": total - layers,
        "heads": settings["num_attention_heads"],
        "ffn": settings["intermediate_size"],
        "max_positions": settings["max_position_embeddings"] - first,
        "norm_eps": settings["layer_norm_eps"],
    }
    return replace(config, **{key: value for key, value in named.items() if getattr(config, key) is None})


def _text_settings(name: str) -> dict[str, Any]:
    """Return the configuration of a model of transformers.

    Args:
        name: Folder with a ``config.json``, name on the hub, or model type for its default sizes.
    """
    from transformers import AutoConfig

    try:
        local = Path(name).expanduser()
        if name in TEXT_FAMILIES and not local.exists():
            return dict(AutoConfig.for_model(name).to_dict())
        return dict(AutoConfig.from_pretrained(str(local) if local.exists() else name).to_dict())
    except Exception as error:  # no such folder, no network, no config.json: many exception types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"model.text.name: {name} is no folder with a config.json, no model on the hub and none of the types "
            f"{', '.join(TEXT_FAMILIES)} ({reason})"
        ) from error
