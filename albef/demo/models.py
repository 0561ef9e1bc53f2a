"""Interface of the models behind the page."""

from __future__ import annotations

from typing import Protocol

from PIL.Image import Image

Labels = dict[str, float]
"""Probabilities by label."""
Titled = list[tuple[Image, str]]
"""Images with their titles."""


class DemoError(ValueError):
    """The page cannot be served."""


TASKS = {
    "search": "retrieval",
    "captions": "retrieval",
    "answer": "vqa",
    "entail": "entailment",
    "ground": "grounding",
    "compare": "nlvr2",
    "classify": "retrieval",
}
"""Task whose model answers, by the method of `Models`."""
TOP = 5
"""Most captions and answers."""


class Models(Protocol):
    """Models that answer, each by the method of a tab.

    Images are the content of files. All methods raise ValueError or OSError for what they refuse.

    Attributes:
        about: Description for visitors.
        tabs: Methods that have a model.
    """

    about: str
    tabs: list[str]

    def search(self, text: str, k: int) -> Titled:
        """Return the best images for a text, with their scores."""

    def captions(self, image: bytes, texts: list[str]) -> Labels:
        """Return the texts that fit an image best; without texts, the best known captions."""

    def answer(self, image: bytes, question: str) -> Labels:
        """Return answers to a question."""

    def entail(self, image: bytes, hypothesis: str) -> Labels:
        """Return the probabilities of entailment, neutral and contradiction."""

    def ground(self, image: bytes, phrase: str) -> tuple[Image, Titled]:
        """Return an image under its heat map, with the box, and heat maps of the words."""

    def compare(self, first: bytes, second: bytes, statement: str) -> Labels:
        """Return the probabilities that a statement about two images is true or false."""

    def classify(self, image: bytes, labels: list[str], templates: list[str]) -> Labels:
        """Return the probabilities of labels."""
