"""Typed configuration: ``params.yaml`` as frozen dataclasses.

No field that is a hyper-parameter has a default here: ``params.yaml`` is the one place for its value.
An unknown, missing or mistyped key raises `ConfigError` naming the file, the key and what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from albef.config_parsing import ConfigError as ConfigError
from albef.config_parsing import from_dict as from_dict
from albef.config_parsing import renamed, replaced
from albef.config_parsing import to_dict as to_dict


@dataclass(frozen=True, kw_only=True)
class EmojiConfig:
    """The built-in world (`albef.datasets.emoji`): scenes per list, seen through one seed."""

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
    official_quirks: bool = renamed("faithful")  # keep the official quirks that change numbers


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Pretrained encoders to start from (paper section 3.1); null: random (`albef.weights.init_weights`)."""

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
class DistributedConfig:  # who trains, in every training stage (`albef.training.distributed`)
    world_size: int = renamed("workers")  # processes that share each batch; 1: this one alone
    cpus_per_worker: int
    gpus_per_worker: int
    max_failures: int  # times that lost workers are replaced


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
    num_workers: int = renamed("workers")  # data-loading processes; 0: load in the training process
    log_every: int  # steps
    checkpoint_every: int  # steps
    image_size: int | None = None  # pixels per side; null: that of the model section


@dataclass(frozen=True, kw_only=True)
class AlignTrainConfig(TrainConfig):
    """Fine-tuning with ITC."""

    temperature: float | None  # of ITC at the start; null: that of the weights


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
    train: AlignTrainConfig
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
    train: AlignTrainConfig
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


IndexDtype = Literal["float32", "float16", "int8"]


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
    index_dtype: IndexDtype = renamed("gallery")  # precision of the stored embeddings
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
class TuneConfig:
    """A search for the hyper-parameters of a task (`albef.tuning`)."""

    trials: int  # settings that are tried, the present one first
    concurrent: int  # at a time, at most
    cpus_per_trial: float
    gpus_per_trial: float
    grace_epochs: int  # before a trial can be stopped for being behind
    seed: int
    epochs: int | None  # of a trial; null: those of the task
    rows: int | None  # of the training list; null: all


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole of ``params.yaml``."""

    prepare: PrepareConfig
    validate: ValidateConfig
    tokenizer: TokenizerConfig
    model: ModelConfig
    init: InitConfig | None = None
    distributed: DistributedConfig
    pretrain: PretrainConfig
    text_assignment: TrainConfig
    tasks: TasksConfig
    export: ExportConfig
    serve: ServeConfig
    release: ReleaseConfig
    drift: DriftConfig
    tune: TuneConfig


def section_of(config: Config, task: str) -> Any:
    """The section of a task: below ``tasks``, or at the top for pretraining and text assignment.

    Raises:
        AttributeError: If there is none.
    """
    return getattr(config.tasks if hasattr(config.tasks, task) else config, task)


def read(path: Path) -> Any:
    """Content of a YAML file.

    Raises:
        ConfigError: If it is missing or is not YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        # ruamel reads 1e-5 as a float, as DVC does; PyYAML reads a string.
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the parameter file ({error.strerror})") from error
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error


def load(path: str | Path = "params.yaml") -> Config:
    """Read the parameter file.

    Raises:
        ConfigError: If the file is missing, is not YAML or has a wrong key.
    """
    return from_dict(read(Path(path)), Config, str(path))


def overlay(config: Config, values: Mapping[str, Any]) -> Config:
    """The parameters with some others: nested mappings, of the keys that change alone.

    Raises:
        ConfigError: If there is no such key, or a value is of another kind.
    """
    return replaced(config, values)


def train_values(values: Any, task: str, where: str) -> dict[str, Any]:
    """Of the content of a parameter file, or of a part of one, what it says of the training of a task.

    Raises:
        ConfigError: If it says nothing of it.
    """
    try:
        return {"tasks": {task: {"train": values["tasks"][task]["train"]}}}
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{where}: expected tasks.{task}.train") from error
