"""Typed configuration: ``params.yaml`` as frozen dataclasses.

No field that is a hyper-parameter has a default here: ``params.yaml`` is the one place for its value.
An unknown, missing or mistyped key raises `ConfigError` naming the file, the key and what was expected.
"""

from __future__ import annotations

import dataclasses
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class ConfigError(ValueError):
    """A key of the parameter file is unknown, missing or has a wrong value."""


@dataclass(frozen=True, kw_only=True)
class EmojiConfig:
    """The built-in world (`albef.data.emoji`): scenes per list, seen through one seed."""

    image_size: int  # pixels per side
    pretrain: int  # scenes, one image and one caption list each
    train: int  # scenes of every downstream train list
    val: int
    test: int
    max_objects: int
    caption_noise: float  # share of pretraining captions replaced or mangled


@dataclass(frozen=True, kw_only=True)
class ListsConfig:
    """Official JSON lists on disk instead of the built-in world; ``files`` has them by name, such as ``pretrain``."""

    image_root: str
    files: dict[str, list[str]]
    folders: dict[str, str] | None = None  # list, or one of its files -> its part of image_root
    moved: dict[str, str] | None = None  # how paths in the lists begin -> where these pictures are now


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    source: Literal["emoji", "lists"]
    seed: int
    emoji: EmojiConfig
    lists: ListsConfig | None = None


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """The gate (`albef.validation`)."""

    on_bad_record: Literal["refuse", "quarantine"]
    max_bad_share: float  # quarantine only up to this share of a list, refuse beyond
    min_image_side: int
    max_image_side: int
    max_caption_words: int
    max_label_share: float  # of the most frequent class in a classification list
    min_known_answers: float  # share of VQA questions whose usual answer is in the answer list


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    kind: Literal["wordpiece", "bert"]
    vocab_size: int  # wordpiece: upper bound of the trained vocabulary
    source: str | None = None  # bert: local folder or hub name


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    width: int
    depth: int
    heads: int
    stem: Literal["patch", "conv"]
    drop_path: float


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    width: int
    layers: int
    fusion_layers: int
    heads: int
    ffn: int
    max_positions: int
    dropout: float
    decoder_layers: int | None = None  # of VQA's answer decoder; null: as many as fuse, from which they start


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of ALBEF (paper section 3.1). The vocabulary size comes from the tokenizer."""

    image_size: int
    patch_size: int
    vision: VisionConfig
    text: TextConfig
    projection: int
    queue_size: int
    momentum: float
    temperature: float
    faithful: bool  # keep the official quirks that change numbers


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Pretrained parts that pretraining starts from (paper section 3.1); null: as built (`albef.model.pretrained`)."""

    vision: str | None  # timm:NAME, or a local folder or file
    text: str | None  # a BERT: local folder or file, or hub name


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    kind: Literal["adamw", "muon"]  # muon: AdamW for all but the matrices (official: adamw)
    lr: float
    min_lr: float
    warmup_lr: float
    warmup_steps: int
    weight_decay: float
    beta2: float
    clip: float  # gradient norm; 0 is off
    temperature_lr_scale: float  # learning rate of the temperature as a share of lr (official: 1)
    schedule: Literal["step", "epoch"]  # granularity of the cosine; the official code steps once an epoch


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run, whatever the task."""

    seed: int
    epochs: int
    batch_size: int
    optim: OptimConfig
    alpha: float  # weight of the momentum-distillation targets
    alpha_ramp_epochs: float  # epochs in which alpha rises linearly from 0 (official: 1, or 0 for none)
    max_words: int  # texts are cut to this many words
    max_tokens: int | None  # null: no further cut
    augment: Literal["none", "light", "randaugment"]
    precision: Literal["fp32", "bf16"]
    compile: bool
    workers: int
    log_every: int  # steps
    checkpoint_every: int  # steps
    image_size: int | None = None  # pixels per side; null: that of the model section


@dataclass(frozen=True, kw_only=True)
class FusionTrainConfig(TrainConfig):
    """Training without ITC: nothing in a batch speaks against several texts of one picture."""

    share_images: bool  # texts of one picture come in one batch and share its encoding (official: no)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """Pretraining; the switches are those of the paper's ablation (table 1), all true in ALBEF itself."""

    mask_probability: float  # MLM
    itc: bool  # the contrastive loss
    hard_negatives: bool  # ITM's negatives drawn by ITC similarity, not evenly
    distill_itc: bool  # momentum distillation at weight alpha in ITC
    distill_mlm: bool  # the same in MLM


@dataclass(frozen=True, kw_only=True)
class RerankConfig:
    """Two-stage retrieval: ITC shortlist of ``shortlist`` candidates, ITM re-rank of those."""

    shortlist: int
    score: Literal["itm", "itm+itc"]  # official: itm
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    train: TrainConfig
    evaluate: RerankConfig


@dataclass(frozen=True, kw_only=True)
class AnswerConfig:
    """VQA answers: ranked from a list of candidates, or generated."""

    mode: Literal["rank", "generate"]
    shortlist: int  # candidates kept by their first token, then scored whole (official: 128)
    beams: int  # generate; 1 is greedy
    max_tokens: int  # generate: longest answer
    top: int  # answers given
    batch_size: int  # questions


@dataclass(frozen=True, kw_only=True)
class VqaConfig:
    train: FusionTrainConfig
    evaluate: AnswerConfig


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """An evaluation that has nothing to choose but its batch size."""

    batch_size: int


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig:
    train: FusionTrainConfig
    evaluate: BatchConfig


@dataclass(frozen=True, kw_only=True)
class HeatMapConfig:
    """Grounding by Grad-CAM (paper section 5)."""

    mode: Literal["itm", "itc"]  # attention of the fusion encoder, or of the image encoder
    block: int  # layer that is looked at, counted from 0 within its encoder (official: 2 for itm, 8 for itc)
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class GroundingConfig:
    train: TrainConfig
    evaluate: HeatMapConfig


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    retrieval: RetrievalConfig
    vqa: VqaConfig
    entailment: ClassificationConfig
    nlvr2: ClassificationConfig
    grounding: GroundingConfig


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    opset: int
    tolerance: float  # largest absolute difference between ONNX Runtime and PyTorch
    parity_samples: int


GalleryDtype = Literal["float32", "float16", "int8"]


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """The Triton model repository (`albef.export.repository`)."""

    version: int
    max_batch_size: int  # rows of a graph's batch
    max_queries: int  # rows of an endpoint's batch
    queue_delay_us: int
    instances: int
    threads: int  # per instance
    shortlist: int  # ITC candidates that are re-ranked
    max_k: int
    gallery: GalleryDtype  # precision of the stored embeddings
    max_image_bytes: int
    max_image_pixels: int


@dataclass(frozen=True, kw_only=True)
class ReleaseMetrics:  # of each endpoint, the one of its evaluation that decides
    retrieval: Literal["r_mean", "ir_r1", "ir_r5", "ir_r10", "tr_r1", "tr_r5", "tr_r10"]
    vqa: Literal["accuracy"]
    entailment: Literal["accuracy"]
    grounding: Literal["accuracy", "pointing"]


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig:  # what a model may lose that takes over (`albef.registry`)
    max_regression: float
    metrics: ReleaseMetrics


@dataclass(frozen=True, kw_only=True)
class DriftConfig:  # how far served requests may be from their reference (`albef.drift`)
    reference_rows: int  # of each training list that are looked at
    window: int  # newest served questions of an endpoint that are judged
    min_rows: int  # fewer questions get no verdict
    max_shift: float  # of a mean, in standard deviations of the reference
    max_divergence: float  # Kullback-Leibler divergence from the reference, in nats
    max_size_ratio: float  # of the median width, height and file size, either way
    max_unknown: float  # share of unknown tokens, above that of the reference


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole of ``params.yaml``."""

    prepare: PrepareConfig
    validate: ValidateConfig
    tokenizer: TokenizerConfig
    model: ModelConfig
    init: InitConfig | None = None
    pretrain: PretrainConfig
    text_assignment: TrainConfig
    tasks: TasksConfig
    export: ExportConfig
    serve: ServeConfig
    release: ReleaseConfig
    drift: DriftConfig


def section_of(config: Config, task: str) -> Any:
    """The section of a task: below ``tasks``, or at the top for pretraining and text assignment.

    Raises:
        AttributeError: If there is none.
    """
    return getattr(config.tasks if hasattr(config.tasks, task) else config, task)


def _expected(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    return getattr(hint, "__name__", str(hint))


def _convert(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _section(value, hint, where)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(value, next(a for a in args if a is not type(None)), where)
    if origin is Literal and value in args and type(value) in {type(a) for a in args}:
        return value
    if origin is list and isinstance(value, list):
        return [_convert(v, args[0], f"{where}[{i}]") for i, v in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {str(k): _convert(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise ConfigError(f"{where}: expected {_expected(hint)}, got {value!r}")


def _section(data: Any, cls: type, where: str) -> Any:
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a mapping with the keys of {cls.__name__}, got {data!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = [str(k) for k in data if k not in fields]
    if unknown:
        raise ConfigError(f"{where}.{unknown[0]}: unknown key; known are {', '.join(fields)}")
    hints = get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(data[name], hints[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING:
            raise ConfigError(f"{where}.{name}: missing key; expected {_expected(hints[name])}")
    return cls(**values)


def from_dict(data: Any, cls: type[T], where: str = "params") -> T:
    """Build the dataclass ``cls`` from plain data.

    Args:
        data: Nested mappings, as read from YAML or JSON.
        where: Prefix of the key path in error messages.

    Raises:
        ConfigError: If a key is unknown, missing or mistyped.
    """
    result: T = _section(data, cls, where)
    return result


def load(path: str | Path = "params.yaml") -> Config:
    """Read the parameter file.

    Raises:
        ConfigError: If the file is missing, is not YAML or has a wrong key.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = Path(path)
    try:
        # ruamel reads 1e-5 as a float, as DVC does; PyYAML reads a string.
        data = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the parameter file ({error.strerror})") from error
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    return from_dict(data, Config, str(path))


def to_dict(config: Any) -> dict[str, Any]:
    """Plain data of a configuration dataclass, for checkpoints and run logs."""
    return dataclasses.asdict(config)
