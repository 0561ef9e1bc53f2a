"""Sources of a model for inference: stage folders, published checkpoints, versions in MLflow's registry."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from ruamel.yaml import YAML
from tokenizers import Tokenizer
from torch import Tensor

from albef import config as configuration
from albef import presets
from albef.config import Config
from albef.data import tokenizer as tokenizers
from albef.data.tokenizer import Encoder
from albef.models.albef import ALBEF
from albef.weights import checkpoint, official
from albef.weights.infer_config import infer_sizes, size_mismatches, vocab_size

MODEL, PARAMS, TOKENIZER = "model.pth", "params.yaml", "tokenizer.json"
_REGISTRY = "models:/"
_PUBLISHED = "paper-4m"
"""Preset with the parameters of published checkpoints."""


class SourceError(ValueError):
    """A source without a usable model, parameters or tokenizer."""


@dataclass(frozen=True)
class Source:
    """Model without teacher and queue, with its parameters and tokenizer.

    Args:
        name: Name in error messages.
    """

    name: str
    model: ALBEF
    config: Config
    encoder: Encoder


def read(source: str | Path, tokenizer: str | Path | None = None, params: str | Path | None = None) -> Source:
    """Read a model; see `albef.api.load`.

    Raises:
        SourceError: If there is no model, no parameters, or no tokenizer of this model.
        CheckpointError: If the file of the model cannot be read weights-only.
        ConfigError: If the parameter file is invalid.
        TokenizerError: If the tokenizer cannot be loaded.
        RegistryError: If the registry has no such version with a checkpoint.
    """
    if not str(source).startswith(_REGISTRY):
        return _read(Path(source), str(source), tokenizer, params)
    from albef.registry.models import download_checkpoint

    with tempfile.TemporaryDirectory(prefix="albef-") as folder:
        return _read(download_checkpoint(str(source), Path(folder)), str(source), tokenizer, params)


def _read(path: Path, name: str, tokenizer: str | Path | None, params: str | Path | None) -> Source:
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        raise SourceError(
            f"{name}: no model, expected the folder of a training stage with {MODEL}, a published checkpoint (.pth) or "
            f"{_REGISTRY}NAME@ALIAS"
        )
    data = official.read_weights(file)
    if checkpoint.is_model_file(data):
        params = params or _nearest(file, PARAMS)
        if params is None:
            raise SourceError(f"{name}: no {PARAMS} in this folder or one above it; give params=FILE")
        config = configuration.load(params)
        model = checkpoint.build(*checkpoint.parse(data, file), file, inference=True)
    else:
        config = _published() if params is None else configuration.load(params)
        model = _from_official(official.parse(data, file), config, file)
    encoder = Encoder(_tokenizer(file, name, tokenizer, config))
    if encoder.vocab_size != model.vocab_size:
        raise SourceError(
            f"{name}: trained with a vocabulary of {model.vocab_size} tokens, but the tokenizer has "
            f"{encoder.vocab_size}; give tokenizer=FOLDER of the tokenizer that it was trained with"
        )
    return Source(name, model, config, encoder)


def _nearest(file: Path, *names: str) -> Path | None:
    """Return the nearest of some file names in or above the folder of a file."""
    paths = (folder / name for folder in file.resolve().parents for name in names)
    return next((path for path in paths if path.is_file()), None)


def _published() -> Config:
    content = YAML(typ="safe").load(presets.content(_PUBLISHED))
    return configuration.from_dict(content, Config, f"preset {_PUBLISHED}")


def _from_official(state: dict[str, Tensor], config: Config, file: Path) -> ALBEF:
    """Return the model of an official checkpoint, at the checkpoint's own image size."""
    try:
        task = official.infer_task(state)
        mismatches = size_mismatches(config.model, state)
        size = infer_sizes(state)["image_size"]
    except official.CheckpointError as error:
        raise official.CheckpointError(f"{file}: {error}") from error
    if mismatches:
        raise official.CheckpointError(f"{file}: {'; '.join(mismatches)}; give params=FILE with its model section")
    model = ALBEF(replace(config.model, image_size=size), vocab_size(state), task, inference=True)
    official.load_official(model, state, str(file))
    return model.eval()


def _tokenizer(file: Path, name: str, tokenizer: str | Path | None, config: Config) -> Tokenizer:
    if tokenizer is None:
        tokenizer = _nearest(file, TOKENIZER, f"tokenizer/{TOKENIZER}")
    if tokenizer is None and config.tokenizer.kind == "bert":
        tokenizer = config.tokenizer.source
    if tokenizer is None:
        raise SourceError(
            f"{name}: no {TOKENIZER} in this folder, nor in a folder 'tokenizer' beside or above it; give "
            "tokenizer=FOLDER"
        )
    return tokenizers.resolve(tokenizer)
