"""Configuration of the data stages; part of `albef.config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from albef.config_parsing import AtLeast1, ConfigError, Fraction, Range

HashDistance = Annotated[int, Range(0, 7)]


@dataclass(frozen=True, kw_only=True)
class EmojiConfig:
    """Built-in synthetic data set (`albef.datasets.emoji`); sizes are in scenes."""

    image_size: int  # pixels per side
    pretrain: int  # scenes for pretraining, each with one image and its captions
    train: int  # scenes of each downstream train list
    val: int  # scenes of each val list
    test: int  # scenes of each test list
    max_objects: int  # per scene
    caption_noise: float  # fraction of pretraining captions that are replaced or corrupted


@dataclass(frozen=True, kw_only=True)
class ListsConfig:
    """Data set of official JSON lists on disk."""

    image_root: str  # folder of all images
    files: dict[str, list[str]]  # list name, such as pretrain -> its files
    folders: dict[str, str] | None = None  # list name or file -> subfolder of image_root
    moved: dict[str, str] | None = None  # path prefix in the lists -> current folder of these images


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Image-text pairs of a folder, of shards or of the hub (`albef.datasets.pairs`)."""

    path: str  # folder, WebDataset (.tar) or Parquet files, or hub:NAME
    image: str | None = None  # column of the image; null: found by name
    caption: str | None = None  # column of the caption, or captions
    split: str = "train"  # split of a data set of the hub
    subset: str | None = None  # its subset, if it has several
    val: Fraction = 0.05  # fraction of images for retrieval_val
    test: Fraction = 0.05  # and for retrieval_test


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Pretraining on shards that are read while training (`albef.data.stream`); ``prepare.pairs`` names them."""

    rows: AtLeast1  # pairs of an epoch
    sources: dict[str, AtLeast1] | None = None  # shards, as in pairs.path -> their pairs; null: those of pairs.path
    open_shards: AtLeast1 = 4  # shards that a loading process reads at a time
    window: AtLeast1 = 256  # samples that it takes from each of them before it shuffles
    sample: AtLeast1 = 2000  # pairs that are prepared: for the tokenizer, the data gate and retrieval


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Source of the data set."""

    source: Literal["emoji", "lists", "pairs", "stream"]  # emoji: the built-in data set; else the section of its name
    seed: int = 0  # of the built-in data set
    emoji: EmojiConfig | None = None
    lists: ListsConfig | None = None
    pairs: PairsConfig | None = None
    stream: StreamConfig | None = None
    max_side: AtLeast1 | None = None  # larger images are shrunk to this many pixels; null: none is

    def check(self) -> None:
        """Raise ConfigError if the section of the source is missing."""
        if self.source == "emoji" and self.emoji is None:
            raise ConfigError("prepare.emoji: missing key; expected the sizes of the built-in data set")
        if self.source == "lists" and self.lists is None:
            raise ConfigError("prepare.lists: missing key; expected image_root and files for the source 'lists'")
        if self.source in ("pairs", "stream") and self.pairs is None:
            raise ConfigError(f"prepare.pairs: missing key; expected path for the source {self.source!r}")
        if self.source == "stream" and self.stream is None:
            raise ConfigError("prepare.stream: missing key; expected rows for the source 'stream'")
        if self.source == "stream" and self.pairs is not None and self.pairs.path not in self.stream_sources():
            raise ConfigError(
                f"prepare.stream.sources: expected all sources, prepare.pairs.path ({self.pairs.path}) included"
            )

    def stream_sources(self) -> dict[str, int]:
        """Return the sources of a stream, with their pairs."""
        assert self.stream is not None
        assert self.pairs is not None
        return self.stream.sources or {self.pairs.path: self.stream.rows}


@dataclass(frozen=True, kw_only=True)
class CaptionsConfig:
    """Filter of pretraining captions (`albef.validation.caption_filter`); null: no limit."""

    min_words: AtLeast1 | None = None  # after cleaning
    max_words: AtLeast1 | None = None  # likewise
    min_letters: Fraction | None = None  # least fraction of letters among the characters, without spaces
    max_repeats: AtLeast1 | None = None  # how often a list may have the same caption; the first ones are kept
    languages: list[str] | None = None  # allowed ones, as ISO 639 codes such as en


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """Data validation (`albef.validation`)."""

    on_bad_record: Literal["refuse", "quarantine"]  # fail, or exclude bad records
    max_bad_share: Fraction  # quarantine: fail above this fraction of bad records in a list
    min_image_side: AtLeast1  # pixels
    max_image_side: AtLeast1  # pixels
    max_caption_words: AtLeast1  # of any text, after cleaning
    max_label_share: Fraction  # maximum fraction of the most frequent class in a classification list
    max_hash_distance: HashDistance | None = 3  # bits between images that are the same, of 64; null: only equal pixels
    min_known_answers: Fraction  # minimum fraction of VQA questions whose most common answer is in the answer list
    captions: CaptionsConfig | None = None  # drop captions of pretraining, without an error; null: none is
