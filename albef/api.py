"""Python API: a trained model without a server.

``albef.load`` returns an `Albef`. A method needs the weights of the task that it belongs to, or of one with the same
modules (`albef.tasks.registry.models_for`); preprocessing, parameters and computation are those of this task's
evaluation.

Images are paths, the content of files, PIL images or arrays. Where a text may be a list, a list gives a list of
results, with one image for all texts or one image per text.

I = images, T = texts, P = projection width, G = patches per side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from albef import sources
from albef.config import TrainConfig, section_of, train_config
from albef.data.images import ImageSource, StoredImage, load_image
from albef.data.schema import NLVR_LABELS, VE_LABELS
from albef.data.text import clean
from albef.inference.boxes import best_box, hot_box, upsample
from albef.inference.encode import evaluating, pixels_of, words_of
from albef.inference.itm_rerank import match_image, text_bank
from albef.models.precision import full_precision
from albef.serving.requests import Answer
from albef.tasks import registry
from albef.tasks.classification_eval import classify
from albef.tasks.classify.prompts import LABEL_ALONE, class_features, prompts
from albef.tasks.grounding.evaluate import heat_maps
from albef.tasks.grounding.overlay import CHOSEN, framed, overlay
from albef.tasks.retrieval.evaluate import encode_images, match_pairs
from albef.tasks.retrieval.spec import MATCH
from albef.tasks.vqa import evaluate as vqa

Images = ImageSource | Sequence[ImageSource]
"""One image or several; an array with four dimensions holds several."""
Batch = list[str] | tuple[str, ...]
Texts = str | Batch
Precision = Literal["fp32", "bf16"]
Floats = NDArray[np.float32]


class UnsupportedTaskError(ValueError):
    """The method needs the weights of another task than the loaded one."""


@dataclass(frozen=True)
class Match:
    """Image found for a text.

    Attributes:
        index: Index in the given images.
        score: Match score; higher is better.
    """

    index: int
    score: float


@dataclass(frozen=True)
class Classification:
    """Most probable label, and the probabilities of all labels."""

    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Grounding:
    """Location of a phrase in an image.

    Attributes:
        heat: Heat map ``(G, G)``, one value per patch.
        box: x, y, width, height in pixels of the image.
        image: The image in RGB, upright.
    """

    heat: Floats
    box: tuple[float, float, float, float]
    image: Image.Image = field(repr=False, compare=False)

    def overlay(self) -> Image.Image:
        """Return the image under its heat map, with the box."""
        heat = overlay(self.image, upsample(self.heat, *self.image.size))
        return framed(heat, [(self.box, CHOSEN)])


def load(
    source: str | Path,
    *,
    tokenizer: str | Path | None = None,
    params: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
) -> Albef:
    """Load a trained model, without teacher, queue and optimizer.

    Args:
        source: Folder of a training stage, such as ``artifacts/finetune/vqa``; a ``.pth`` file of a stage or in a
            published layout; or ``models:/NAME@ALIAS``, a version in MLflow's registry (``MLFLOW_TRACKING_URI``).
        tokenizer: Tokenizer file or folder, or name of a BERT whose vocabulary to use. Default: ``tokenizer.json`` or
            ``tokenizer/tokenizer.json`` in the folder of the model or the nearest one above it, else the BERT named by
            the parameters.
        params: Parameter file. Default: the nearest ``params.yaml`` in or above the folder of the model; for a
            published checkpoint, the preset ``paper-4m``.
        device: Device of the model; by default a GPU if there is one.
        precision: ``bf16`` computes matrix products in bfloat16; results are float32.

    Raises:
        SourceError: If there is no model, or no parameters or tokenizer that fit it.
        CheckpointError: If the file cannot be read weights-only or does not fit the parameters.
        ConfigError: If the parameter file is invalid.
        TokenizerError: If the tokenizer cannot be loaded.
        RegistryError: If the registry has no such version with a checkpoint.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision: expected 'fp32' or 'bf16', got {precision!r}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Albef(sources.read(source, tokenizer, params), torch.device(device), precision)


class Albef:
    """A trained model; created by `load`.

    Attributes:
        task: Task that the model was trained for.
        model: The network.
        config: Parameters.
        encoder: Tokenizer.
    """

    def __init__(self, source: sources.Source, device: torch.device, precision: Precision) -> None:
        self.name, self.task, self.precision = source.name, source.model.task, precision
        self.model = source.model.to(device).requires_grad_(False)
        self.config, self.encoder = source.config, source.encoder

    def embed_image(self, images: Images) -> Floats:
        """Return ITC features ``(I, P)`` of images, of unit length."""
        train, items = self._aligned("embed_image"), _images(images)
        with torch.no_grad(), evaluating(self.model, train) as device:
            parts = [
                self.model.encode_image(pixels_of(batch, self.model.config.image_size).to(device))[1].float().cpu()
                for batch in _batches(items, train.batch_size)
            ]
        return torch.cat(parts).numpy()

    def embed_text(self, texts: Texts) -> Floats:
        """Return ITC features ``(T, P)`` of texts, of unit length."""
        train, strings = self._aligned("embed_text"), _texts(texts)
        with torch.no_grad(), evaluating(self.model, train) as device:
            parts = [
                self.model.encode_text(*words_of(batch, self.encoder, train, device))[1].float().cpu()
                for batch in _batches(strings, train.batch_size)
            ]
        return torch.cat(parts).numpy()

    def similarity(self, images: Images, texts: Texts) -> Floats:
        """Return cosine similarities ``(I, T)`` of ITC features."""
        self._require("similarity", "retrieval")
        result: Floats = self.embed_image(images) @ self.embed_text(texts).T
        return result

    def match(self, images: Images, texts: Texts) -> Floats:
        """Return ITM probabilities ``(I, T)`` that image and text match."""
        train, items, strings = self._aligned("match"), _images(images), _texts(texts)
        rows, step = torch.arange(len(strings)), train.batch_size
        logits = []
        with torch.no_grad(), evaluating(self.model, train):
            bank = text_bank(self.model, *words_of(strings, self.encoder, train, torch.device("cpu")), step)
            for batch in _batches(items, step):
                for embeds in encode_images(self.model, batch, step).embeds.split(1):
                    keys_values = self.model.student.fusion.keys_values(embeds)
                    logits.append(match_image(self.model, bank, keys_values, rows, step).cpu())
        return torch.stack(logits).softmax(dim=-1)[..., MATCH].numpy()

    @overload
    def retrieve(self, text: str, images: Images, k: int = 10, *, shortlist: int | None = None) -> list[Match]: ...
    @overload
    def retrieve(
        self, text: Batch, images: Images, k: int = 10, *, shortlist: int | None = None
    ) -> list[list[Match]]: ...
    def retrieve(
        self, text: Texts, images: Images, k: int = 10, *, shortlist: int | None = None
    ) -> list[Match] | list[list[Match]]:
        """Return the ``k`` best images for a text, best first.

        As in the endpoint, ITC similarity yields a shortlist, which ITM re-ranks. All images are held encoded in
        memory; search large collections with the endpoint's index.

        Args:
            shortlist: Images to re-rank, at least ``k``; by default ``serve.shortlist`` of the parameters.
        """
        section, items, strings = self._section("retrieve", "retrieval"), _images(images), _texts(text)
        settings = section.evaluate
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        with torch.no_grad(), evaluating(self.model, section.train):
            encoded = encode_images(self.model, items, settings.batch_size)
            words = words_of(strings, self.encoder, section.train, torch.device("cpu"))
            bank = text_bank(self.model, *words, settings.batch_size)
            with full_precision(encoded.feats):
                similarity = (encoded.feats @ bank.feats.T).cpu()
            count = min(max(k, shortlist or self.config.serve.shortlist), len(items))
            pairs = torch.zeros(similarity.shape, dtype=torch.bool)
            pairs.scatter_(0, similarity.topk(count, dim=0).indices, True)
            scores = match_pairs(self.model, encoded, bank, similarity, pairs, settings)
        best = scores.T.topk(min(k, len(items)))
        results = [
            [Match(index, score) for index, score in zip(*row, strict=True)]
            for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return results[0] if isinstance(text, str) else results

    @overload
    def answer(
        self, image: Images, question: str, answers: Sequence[str] | None = None, num: int = 5
    ) -> list[Answer]: ...
    @overload
    def answer(
        self, image: Images, question: Batch, answers: Sequence[str] | None = None, num: int = 5
    ) -> list[list[Answer]]: ...
    def answer(
        self, image: Images, question: Texts, answers: Sequence[str] | None = None, num: int = 5
    ) -> list[Answer] | list[list[Answer]]:
        """Return the most probable answers to a question about an image, best first.

        Args:
            answers: Answers to rank, whose probabilities sum to 1 over the shortlist. By default answers are
                generated, at most ``tasks.vqa.evaluate.beams``.
            num: Maximum number of answers.
        """
        section, questions = self._section("answer", "vqa"), _texts(question)
        if num < 1:
            raise ValueError(f"num: expected at least 1, got {num}")
        section = replace(section, evaluate=replace(section.evaluate, top=num))
        candidates = None if answers is None else list(dict.fromkeys(answers))
        images, rows = _pairs(len(questions), image)
        found = vqa.answer(self.model, images, rows, questions, candidates, self.encoder, section)
        results = [[Answer(text, probability) for text, probability in row] for row in found]
        return results[0] if isinstance(question, str) else results

    @overload
    def entail(self, image: Images, hypothesis: str) -> Classification: ...
    @overload
    def entail(self, image: Images, hypothesis: Batch) -> list[Classification]: ...
    def entail(self, image: Images, hypothesis: Texts) -> Classification | list[Classification]:
        """Return whether an image entails a hypothesis, contradicts it or is neutral."""
        results = self._classify(self._section("entail", "entailment"), VE_LABELS, hypothesis, image)
        return results[0] if isinstance(hypothesis, str) else results

    @overload
    def compare(self, first: Images, second: Images, text: str) -> Classification: ...
    @overload
    def compare(self, first: Images, second: Images, text: Batch) -> list[Classification]: ...
    def compare(self, first: Images, second: Images, text: Texts) -> Classification | list[Classification]:
        """Return whether a statement about two images is "True" or "False" (NLVR2)."""
        results = self._classify(self._section("compare", "nlvr2"), NLVR_LABELS, text, first, second)
        return results[0] if isinstance(text, str) else results

    def classify(
        self, images: Images, labels: Sequence[str], templates: Sequence[str] = LABEL_ALONE
    ) -> list[Classification]:
        """Return the label that fits each image best by ITC (zero-shot classification).

        Args:
            templates: Texts with ``{}`` in place of the label, whose features are averaged.
        """
        self._require("classify", "retrieval")
        texts = class_features(self.embed_text(prompts(labels, templates)), len(labels))
        logits = torch.from_numpy(self.embed_image(images) @ texts.T) / self.model.temperature.item()
        return _classified(labels, logits.softmax(dim=1).numpy())

    @overload
    def ground(self, image: Images, phrase: str, boxes: Sequence[Sequence[float]] | None = None) -> Grounding: ...
    @overload
    def ground(
        self, image: Images, phrase: Batch, boxes: Sequence[Sequence[float]] | None = None
    ) -> list[Grounding]: ...
    def ground(
        self, image: Images, phrase: Texts, boxes: Sequence[Sequence[float]] | None = None
    ) -> Grounding | list[Grounding]:
        """Locate a phrase in an image by Grad-CAM.

        Args:
            boxes: Proposals x, y, width, height to choose from; by default, the box is derived from the heat map.
        """
        section, phrases = self._section("ground", "grounding"), _texts(phrase)
        distinct, rows = _pairs(len(phrases), image)
        decoded = [load_image(each) for each in distinct]
        images = [decoded[row] for (row,) in rows]
        maps, sizes = heat_maps(self.model, images, phrases, self.encoder, section)
        results = []
        for heat, size, shown in zip(maps, sizes, images, strict=True):
            x, y, width, height = hot_box(heat, *size) if boxes is None else boxes[best_box(heat, *size, boxes)]
            results.append(Grounding(heat, (x, y, width, height), shown))
        return results[0] if isinstance(phrase, str) else results

    def _require(self, method: str, task: str) -> None:
        expected = registry.models_for(task)
        if self.task not in expected:
            raise UnsupportedTaskError(
                f"{method}: {self.name} is a model for {self.task}, expected one for {' or '.join(expected)}"
            )

    def _section(self, method: str, task: str) -> Any:
        """Return the parameters of the task that a method belongs to."""
        self._require(method, task)
        section = section_of(self.config, task)
        return replace(section, train=replace(section.train, precision=self.precision))

    def _aligned(self, method: str) -> TrainConfig:
        """Return the training parameters of the model's own task, which must have ITC and ITM."""
        self._require(method, "retrieval")
        return replace(train_config(self.config, self.task), precision=self.precision)

    def _classify(self, section: Any, labels: Sequence[str], texts: Texts, *columns: Images) -> list[Classification]:
        sentences = _texts(texts)
        images, rows = _pairs(len(sentences), *columns)
        probabilities = classify(self.model, images, rows, sentences, self.encoder, section)
        return _classified(labels, probabilities)


def _classified(labels: Sequence[str], probabilities: Floats) -> list[Classification]:
    return [Classification(labels[row.argmax()], dict(zip(labels, row.tolist(), strict=True))) for row in probabilities]


def _images(images: Images) -> list[ImageSource]:
    if isinstance(images, str | Path | bytes | StoredImage | Image.Image) or (
        isinstance(images, np.ndarray) and images.ndim < 4
    ):
        return [images]
    if not len(images):
        raise ValueError("images: give at least one")
    return list(images)


def _texts(texts: Texts) -> list[str]:
    """Return texts as a list.

    Raises:
        ValueError: If there is none, or one is empty after cleaning.
    """
    strings = [texts] if isinstance(texts, str) else list(texts)
    if not strings:
        raise ValueError("texts: give at least one")
    for text in strings:
        if not isinstance(text, str) or not clean(text):
            raise ValueError(f"texts: expected strings with at least one word, got {text!r}")
    return strings


def _batches(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _pairs(count: int, *columns: Images) -> tuple[list[ImageSource], list[Any]]:
    """Pair texts with the images of each column.

    Returns:
        Images, and the indices of the images of each text.

    Raises:
        ValueError: If a column has neither one image nor one per text.
    """
    images: list[ImageSource] = []
    indices = []
    for column in columns:
        items = _images(column)
        if len(items) not in (1, count):
            raise ValueError(f"{len(items)} images for {count} texts: give one image, or one per text")
        first = len(images)
        images += items
        indices.append([first] * count if len(items) == 1 else range(first, first + count))
    return images, list(zip(*indices, strict=True))
