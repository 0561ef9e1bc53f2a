"""Models in this process."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from PIL.Image import Image

from albef.api import Albef, Floats, load
from albef.data.images import load_image
from albef.demo.data import Data
from albef.demo.heat import located
from albef.demo.models import TASKS, TOP, Labels, Titled
from albef.progress import Progress
from albef.sources import MODEL, SourceError
from albef.tasks import registry
from albef.tasks.grounding.evaluate import with_mode
from albef.tasks.grounding.word_maps import word_panels

_BATCH = 64
_BUILT_IN = "emoji"
"""Source of the built-in data (`prepare.source`)."""


class Local:
    """Models of training stages; see `albef.demo.models.Models`.

    Raises:
        SourceError: If there is no model, or none of the images to search.
        ValueError: If a model or an image cannot be read.
    """

    def __init__(self, folder: Path, data: Data) -> None:
        self.data = data
        self._lock = threading.Lock()  # a model is in evaluation mode for the time of a call
        loaded: dict[str, Albef] = {}
        self._models: dict[str, Albef] = {}
        for method, task in TASKS.items():
            for name in dict.fromkeys([task, *registry.models_for(task)]):
                if (folder / name / MODEL).is_file():
                    loaded[name] = loaded.get(name) or load(folder / name)
                    self._models[method] = loaded[name]
                    break
        if not self._models:
            raise SourceError(
                f"{folder}: no model, expected folders such as {registry.names()[-1]}/{MODEL}; "
                "train them with `dvc repro` or name another folder with --models"
            )
        self.tabs = list(self._models)
        self.about = _about(next(iter(loaded.values())), data)
        if "search" in self._models:
            self._encode()

    def _encode(self) -> None:
        """Encode images and captions once, of which a query compares the most similar ones."""
        if not self.data.images:
            raise SourceError(
                f"{self.data.folder}: no images to search; write them with `albef data export` or name another folder "
                "with --images"
            )
        model, images = self._models["search"], self.data.images
        batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
        bar = Progress(batches, description="images", unit="batches", keep=False)
        self._images: Floats = np.concatenate([model.embed_image(batch) for batch in bar])
        self._captions: Floats | None = model.embed_text(self.data.captions) if self.data.captions else None

    def search(self, text: str, k: int) -> Titled:
        """See `albef.demo.models.Models`; a score is the probability of a match."""
        with self._lock:
            model = self._models["search"]
            similarity = self._images @ model.embed_text(text)[0]
            shortlist = [self.data.images[row] for row in self._best(similarity, k)]
            found = [shortlist[match.index] for match in model.retrieve(text, shortlist, k)]
            scores = model.match(found, text)[:, 0]
        return [(load_image(path), f"{score:.2f}") for path, score in zip(found, scores, strict=True)]

    def captions(self, image: bytes, texts: list[str]) -> Labels:
        """See `albef.demo.models.Models`."""
        with self._lock:
            model = self._models["captions"]
            if not texts:
                if self._captions is None:
                    raise ValueError("enter texts: there is no list of captions to choose from")
                similarity = self._captions @ model.embed_image(image)[0]
                texts = [self.data.captions[row] for row in self._best(similarity, TOP)]
            scores = model.match(image, texts)[0]
        return {texts[row]: float(scores[row]) for row in np.argsort(-scores)[:TOP]}

    def _best(self, similarity: Floats, k: int) -> list[int]:
        """Return the rows of a shortlist, as in the endpoint."""
        count = max(k, self._models["search"].config.serve.shortlist)
        return [int(row) for row in np.argsort(-similarity)[:count]]

    def answer(self, image: bytes, question: str) -> Labels:
        """See `albef.demo.models.Models`."""
        with self._lock:
            found = self._models["answer"].answer(image, question, self.data.answers, TOP)
        return {answer.text: answer.probability for answer in found}

    def entail(self, image: bytes, hypothesis: str) -> Labels:
        """See `albef.demo.models.Models`."""
        with self._lock:
            return self._models["entail"].entail(image, hypothesis).probabilities

    def ground(self, image: bytes, phrase: str) -> tuple[Image, Titled]:
        """See `albef.demo.models.Models`."""
        with self._lock:
            model = self._models["ground"]
            found = model.ground(image, phrase)
            config = with_mode(model.config.tasks.grounding, model.model, "itm")
            words = word_panels(model.model, model.encoder, config, found.image, phrase, config.evaluate.block)
        return located(found.heat, found.box, found.image), [(panel, word) for word, panel in words]

    def compare(self, first: bytes, second: bytes, statement: str) -> Labels:
        """See `albef.demo.models.Models`."""
        with self._lock:
            return self._models["compare"].compare(first, second, statement).probabilities

    def classify(self, image: bytes, labels: list[str], templates: list[str]) -> Labels:
        """See `albef.demo.models.Models`."""
        with self._lock:
            (found,) = self._models["classify"].classify(image, labels, templates)
        return found.probabilities


def _about(model: Albef, data: Data) -> str:
    if model.config.prepare.source != _BUILT_IN:
        return ""
    text = "The models were trained on the **built-in world**: scenes composed of drawings. They know only its words"
    return f"{text} ({len(data.words)}); others are marked below their box." if data.words else f"{text}."
