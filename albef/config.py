"""Typed configuration: ``params.yaml`` as frozen dataclasses.

Hyper-parameters have no defaults here, except those that suit the device: ``params.yaml`` is the single place for their
values. An unknown, missing or mistyped key raises `ConfigError` with the file, the key and the expected value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from albef.config_data import CaptionsConfig as CaptionsConfig
from albef.config_data import EmojiConfig as EmojiConfig
from albef.config_data import ListsConfig as ListsConfig
from albef.config_data import PairsConfig as PairsConfig
from albef.config_data import PrepareConfig as PrepareConfig
from albef.config_data import StreamConfig as StreamConfig
from albef.config_data import ValidateConfig as ValidateConfig
from albef.config_parsing import (
    AtLeast0,
    AtLeast1,
    Fraction,
    NonNegative,
    NotBelow1,
    Positive,
    named_by,
    renamed,
    replaced,
    resolved,
)
from albef.config_parsing import ConfigError as ConfigError
from albef.config_parsing import from_dict as from_dict
from albef.config_parsing import read as read
from albef.config_parsing import to_dict as to_dict
from albef.config_parsing import train_values as train_values
from albef.tasks import registry


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    kind: Literal["wordpiece", "bert"]  # trained on the captions, or the vocabulary of a BERT-like model
    vocab_size: AtLeast1  # wordpiece: maximum size of the trained vocabulary
    source: str | None = None  # bert: local folder, or model name on the Hugging Face Hub


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Image encoder: a vision transformer of given sizes, or a named one."""

    name: str | None = None  # model of timm; the sizes below then override its own
    width: AtLeast1 = named_by("name")
    depth: AtLeast1 = named_by("name")
    heads: AtLeast1 = named_by("name")
    stem: Literal["patch", "conv"] = named_by("name")  # patch embedding: one projection, or three convolutions
    drop_path: Fraction  # stochastic depth rate


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Text and fusion encoder: a BERT of given sizes, or a named one."""

    name: str | None = None  # folder with config.json, name on the hub or model type; the sizes below override its own
    width: AtLeast1 = named_by("name")
    layers: AtLeast1 = named_by("name")  # of the text encoder; null: half of the layers of `name`
    fusion_layers: AtLeast1 = named_by("name")  # null: the other layers of `name`
    heads: AtLeast1 = named_by("name")
    ffn: AtLeast1 = named_by("name")  # width of the feed-forward layers
    max_positions: AtLeast1 = named_by("name")
    norm_eps: Positive | None = None  # of layer normalization; null: that of `name`, or BERT's
    dropout: Fraction  # of attention and states in training
    decoder_layers: AtLeast1 | None = None  # of the VQA answer decoder; null: same as fusion_layers

    @property
    def layer_norm_eps(self) -> float:
        """Epsilon of layer normalization; BERT's by default."""
        return 1e-12 if self.norm_eps is None else self.norm_eps


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Dimensions of ALBEF (paper section 3.1), except the vocabulary size."""

    image_size: AtLeast1  # pixels per side
    patch_size: AtLeast1 = named_by("vision.name")  # pixels per side
    vision: VisionConfig
    text: TextConfig
    projection: AtLeast1  # width of ITC features
    queue_size: AtLeast1  # teacher features that ITC contrasts with, beside those of the batch
    momentum: Fraction  # decay of the momentum teacher
    temperature: Positive  # initial ITC temperature
    official_quirks: bool = renamed("faithful")  # reproduce quirks of the official code that change results


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Pretrained encoders (paper section 3.1, `albef.weights.init_weights`); null: random."""

    vision: str | None  # image encoder: timm:NAME, or a local folder or file
    text: str | None  # BERT-like encoder: local folder or file, or model name on the Hugging Face Hub


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    kind: Literal["adamw", "muon"]  # muon: Muon for weight matrices, AdamW for the rest (official: adamw)
    lr: Positive  # learning rate after the warm-up
    min_lr: NonNegative  # at the end of the cosine schedule
    warmup_lr: NonNegative  # at the start of the warm-up
    warmup_steps: AtLeast0  # steps until lr is reached
    weight_decay: NonNegative  # not of biases and norms
    beta2: Fraction  # decay of AdamW's second moment
    clip: NonNegative  # maximum gradient norm; 0: no clipping
    temperature_lr_scale: NonNegative  # learning rate of the temperature relative to lr (official: 1)
    schedule: Literal["step", "epoch"]  # update interval of the cosine schedule (official: epoch)


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:  # workers of training and evaluation (`albef.workers`)
    world_size: AtLeast1 = renamed("workers")  # processes that each batch is split over; 1: train in this process
    cpus_per_worker: AtLeast1  # cores that Ray reserves for each
    gpus_per_worker: AtLeast0  # 1 to train on GPUs, else 0
    max_failures: AtLeast0  # how often lost workers are replaced before the stage fails
    min_world_size: AtLeast1 | None = None  # go on with as few workers if machines are lost; null: wait for all
    compress_gradients: bool | None = None  # average gradients in bf16; null: on GPUs where `precision` is bf16


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training parameters common to all tasks."""

    seed: AtLeast0  # of weights, order, augmentation and dropout
    epochs: AtLeast1  # passes over the training list
    batch_size: AtLeast1  # of a step, over all devices
    optim: OptimConfig
    alpha: Fraction  # weight of the momentum-distillation targets
    alpha_ramp_epochs: NonNegative  # epochs over which alpha rises linearly from 0 (official: 1, or 0 for none)
    max_words: AtLeast1  # texts are truncated to this many words
    max_tokens: AtLeast1 | None  # and to this many tokens; null: no limit
    augment: Literal["none", "light", "randaugment"]  # light: small shifts and brightness (official: randaugment)
    precision: Literal["fp32", "bf16"]  # of matrix products; weights and losses stay in fp32
    num_workers: AtLeast0 = renamed("workers")  # data-loading processes; 0: load in the training process
    log_every: AtLeast1  # steps
    checkpoint_every: AtLeast1  # steps
    image_size: AtLeast1 | None = None  # pixels per side; null: that of the model section
    device_batch_size: AtLeast1 | None = None  # rows computed at a time on a device; null: its whole share of a batch
    eval_tokens: AtLeast1 | None = (
        None  # tokens that texts are truncated to in evaluation and serving; null: max_tokens
    )
    compile: bool | None = None  # compile layers and losses; null: on GPUs
    activation_checkpointing: bool = False  # compute the image encoder's activations twice, to save memory
    cuda_graph: bool | None = None  # replay pretraining steps from a CUDA graph; null: where possible
    deterministic: bool = False  # repeat results on GPUs bit for bit, at a cost
    max_skipped_steps: AtLeast1 = 10  # steps in a row whose loss is not finite, after which training ends
    max_bad_share: Fraction = 0.01  # end above this fraction of rows that cannot be read and are replaced by others

    def parts(self, world_size: int) -> int:
        """Return the number of parts that a device computes its share of a batch in.

        Gradients are accumulated over them. Parts have at least two rows, since ITM needs a negative.

        Raises:
            ValueError: If the batch has less than two rows for each device.
        """
        if self.batch_size < 2 * world_size and world_size > 1:
            raise ValueError(f"batch_size: {self.batch_size} is not enough for {world_size} devices, two rows for each")
        share = math.ceil(self.batch_size / world_size)
        parts = math.ceil(share / (self.device_batch_size or share))
        return max(1, min(parts, self.batch_size // (2 * world_size)))


@dataclass(frozen=True, kw_only=True)
class ContrastTrainConfig(TrainConfig):
    """Training with ITC."""

    gather_negatives: bool = False  # ITC also contrasts what other devices compute at a time (official: false)


@dataclass(frozen=True, kw_only=True)
class AlignTrainConfig(ContrastTrainConfig):
    """Fine-tuning with ITC."""

    temperature: Positive | None  # initial ITC temperature; null: as loaded with the weights


@dataclass(frozen=True, kw_only=True)
class FusionTrainConfig(TrainConfig):
    """Training without ITC, where texts of one image may share a batch."""

    share_images: bool  # put texts of one image in the same batch and encode the image once (official: false)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(ContrastTrainConfig):
    """Pretraining, with the ablation switches of table 1 (ALBEF: all true)."""

    mask_probability: Fraction  # fraction of tokens selected for MLM
    itc: bool  # image-text contrastive loss
    hard_negatives: bool  # sample ITM negatives by ITC similarity instead of uniformly
    distill_itc: bool  # momentum distillation, with weight alpha, in ITC
    distill_mlm: bool  # likewise in MLM
    mixing_temperature: NotBelow1 | None = None  # T: sources are drawn by rows ** (1 / T); null: each row once an epoch
    captions: Literal["random", "cycle"] = "random"  # of an image with several: a random one (official), or by turns


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """A section below ``tasks``; the classes of the tasks extend it (`albef.tasks.spec.TaskSpec.config`)."""

    init: str = "pretrain"  # stage whose model fine-tuning starts from
    code: str | None = None  # folder of the task's code, a dependency of its stages in dvc.yaml


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """An evaluation that has nothing to choose but its batch size."""

    batch_size: AtLeast1  # texts per batch


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig(TaskConfig):
    """A task with one class per text, such as visual entailment and NLVR2."""

    train: FusionTrainConfig
    evaluate: BatchConfig


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    opset: int  # of ONNX
    tolerance: float  # maximum absolute difference between ONNX Runtime and PyTorch
    parity_samples: int  # inputs of the comparison


IndexDtype = Literal["float32", "float16", "int8"]


@dataclass(frozen=True, kw_only=True)
class TensorRtConfig:
    """TensorRT in NVIDIA's container (`albef.export.tensorrt`)."""

    precision: Literal["fp32", "fp16"] = "fp16"  # of the engines
    tolerance: float = 5e-2  # maximum absolute difference between fp16 engines and PyTorch (`albef parity`)
    workspace_mib: int = 1024  # memory of a graph while it runs
    usual_rows: int = 8  # rows of a batch that engines are tuned for
    cache: str = "/tmp/tensorrt"  # folder of built engines; on a volume, a new pod need not build them


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Triton model repository (`albef.export.repository`)."""

    version: int  # number of the models in the repository
    max_batch_size: int  # rows per batch of a graph
    max_queries: int  # rows per batch of an endpoint
    queue_delay_us: int  # maximum wait for a batch to fill
    max_queue_size: int  # requests that wait for an endpoint; further ones are refused
    instances: int  # of each graph
    threads: int  # per instance
    shortlist: int  # ITC candidates that ITM re-ranks
    max_k: int  # maximum number of results per query
    index_dtype: IndexDtype = renamed("gallery")  # precision of the stored embeddings
    max_image_bytes: int  # of an image file
    max_image_pixels: int  # width times height of an image
    max_request_pixels: int  # of all distinct images of a request
    max_candidates: int  # candidate answers of a VQA request, over all rows
    max_boxes: int  # proposals of a grounding request, over all rows
    decode_workers: int  # processes per endpoint that decode large images
    decode_seconds: float  # CPU time for an image
    tensorrt: TensorRtConfig | None = None  # null: graphs on a GPU run with CUDA in fp32


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """Limits of a client at the gateway (`albef.serving.gateway`)."""

    requests_per_second: int = 50  # of a client at an address
    burst: int = 100  # requests above the rate that are accepted at once
    connections: int = 100  # per address, and requests in progress per connection
    body_timeout: int = 20  # seconds between two parts of a request


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig:  # release gate (`albef.registry`)
    max_regression: float  # maximum decrease of a metric, compared with the served model
    metrics: dict[str, str]  # metric of the evaluation that decides, by endpoint


@dataclass(frozen=True, kw_only=True)
class DriftConfig:  # thresholds for drift of served requests from the training data (`albef.drift`)
    reference_rows: int  # rows of each training list in the reference
    window: int  # latest requests of an endpoint that are checked
    min_rows: int  # minimum number of requests for a check
    max_shift: float  # maximum shift of a mean, in standard deviations of the reference
    max_divergence: float  # maximum Kullback-Leibler divergence from the reference, in nats
    max_size_ratio: float  # maximum ratio of median width, height and file size, in either direction
    max_unknown: float  # maximum increase of the fraction of unknown tokens


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Hyper-parameter search for a task (`albef.tuning`)."""

    tasks: list[str]  # tasks to search before fine-tuning; others are trained with the given parameters
    trials: int  # including the current parameters, which are tried first; 0: no search
    concurrent: int  # maximum number of trials at a time
    cpus_per_trial: float  # cores that Ray reserves for a trial
    gpus_per_trial: float  # GPUs likewise; a fraction shares one
    grace_epochs: int  # minimum number of epochs before a trial can be stopped early
    seed: int  # of the proposals
    epochs: int | None  # per trial; null: as many as in training
    rows: int | None  # rows of the training list; null: all


@cache
def _tasks_type() -> type:
    """Return the dataclass of section ``tasks``: a field for every installed task that is fine-tuned."""
    return make_dataclass(
        "TasksConfig",
        [(task.name, task.config | None, field(default=None)) for task in registry.fine_tuned()],
        frozen=True,
        kw_only=True,
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """Complete content of ``params.yaml``."""

    prepare: PrepareConfig
    validate: ValidateConfig
    tokenizer: TokenizerConfig
    model: ModelConfig
    init: InitConfig | None = None
    distributed: DistributedConfig
    pretrain: PretrainConfig
    text_assignment: TrainConfig
    tasks: Any = resolved(_tasks_type)  # one attribute per fine-tuning task; None if the file has no such section
    export: ExportConfig
    serve: ServeConfig
    gateway: GatewayConfig = GatewayConfig()
    release: ReleaseConfig
    drift: DriftConfig
    tune: TuneConfig


def section_of(config: Config, task: str) -> Any:
    """Return the section of a task.

    It is below ``tasks``, or at the top for pretraining and text assignment.

    Raises:
        ConfigError: If the parameters have no section for the task.
    """
    section = getattr(config.tasks, task, None) or getattr(config, task, None)
    if section is None:
        present = [name for name, value in vars(config.tasks).items() if value is not None]
        raise ConfigError(f"params.tasks: no section {task!r}; there are {', '.join(present)}")
    return section


def train_config(config: Config, task: str) -> TrainConfig:
    """Return the training parameters of a task.

    Raises:
        ConfigError: If the parameters have no section for the task.
    """
    section = section_of(config, task)
    train: TrainConfig = section.train if registry.spec(task).fine_tuning else section
    return train


def load(path: str | Path = "params.yaml") -> Config:
    """Read the parameter file.

    Raises:
        ConfigError: If the file is missing, is not valid YAML or has a wrong key.
    """
    return from_dict(read(Path(path)), Config, str(path))


def overlay(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a copy of the parameters with some values replaced.

    Args:
        values: Nested mappings with the keys to replace.

    Raises:
        ConfigError: If a key is unknown or a value has the wrong type.
    """
    return replaced(config, values)
