"""Tabs of the page: inputs and outputs of each method of the models, with examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from albef.demo.data import Data
from albef.tasks import registry

Kind = Literal["image", "text", "lines", "count"]
Output = Literal["images", "labels", "overlay", "words"]
Value = str | float | None


@dataclass(frozen=True)
class Input:
    """Field that a visitor fills in.

    Args:
        kind: ``lines`` is a list of texts, one per line or, in a single line, between commas.
        default: Initial value.
        optional: Whether it may be empty.
    """

    label: str
    kind: Kind
    default: Any = None
    optional: bool = False

    def read(self, value: Value) -> Any:
        """Return the argument of a method.

        Raises:
            ValueError: If the field is empty but not optional.
            OSError: If a file cannot be read.
        """
        if self.kind == "count":
            return int(value or 1)
        text = str(value or "").strip()
        if not text and not self.optional:
            raise ValueError(
                f"{self.label}: empty; choose an image" if self.kind == "image" else f"{self.label}: empty"
            )
        if self.kind == "image":
            return Path(text).read_bytes()
        return lines(text) if self.kind == "lines" else text


def lines(text: str) -> list[str]:
    """Return the distinct texts of a field: its lines, or the parts of a single line."""
    parts = text.splitlines() if "\n" in text else text.split(",")
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


@dataclass(frozen=True)
class Tab:
    """A tab of the page.

    Args:
        method: Method of `albef.demo.models.Models` that answers.
        examples: Makes rows of values of the inputs, of which the first ones suffice.
    """

    method: str
    title: str
    about: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    examples: Callable[[Data], list[list[Value]]] = field(repr=False)


def _rows(task: str, images: bool = True, text: bool = True) -> Callable[[Data], list[list[Value]]]:
    """Return a function that makes examples from the test list of a task."""
    name = str(registry.spec(task).test_list)
    return lambda data: [
        [*(str(path) for path in paths if images), *([sentence] if text else [])] for paths, sentence in data.rows(name)
    ]


def _labels(data: Data) -> list[list[Value]]:
    """Return examples with the captions of all of them as labels."""
    rows = data.rows(str(registry.spec("retrieval").test_list))
    return [[str(path), "\n".join(caption for _, caption in rows)] for (path, *_), _ in rows]


_IMAGE = Input("Image", "image")
TABS = (
    Tab(
        "search",
        "Search",
        "Images for a text, best first, with the probability that both match. The order may count similarity, too.",
        (Input("Text", "text"), Input("Number of images", "count", 8)),
        ("images",),
        _rows("retrieval", images=False),
    ),
    Tab(
        "captions",
        "Captions",
        "The captions that fit an image best, with the probability that both match.",
        (_IMAGE, Input("Your captions, one per line (empty: those of the test images)", "lines", optional=True)),
        ("labels",),
        _rows("retrieval", text=False),
    ),
    Tab(
        "answer",
        "Questions",
        "Answers to a question about an image.",
        (_IMAGE, Input("Question", "text")),
        ("labels",),
        _rows("vqa"),
    ),
    Tab(
        "entail",
        "Entailment",
        "Whether an image proves a sentence (entailment), disproves it (contradiction), or neither (neutral).",
        (_IMAGE, Input("Sentence", "text")),
        ("labels",),
        _rows("entailment"),
    ),
    Tab(
        "ground",
        "Grounding",
        "Where a phrase is in an image: the heat map of the phrase with a box, and the heat map of each word.",
        (_IMAGE, Input("Phrase", "text")),
        ("overlay", "words"),
        _rows("grounding"),
    ),
    Tab(
        "compare",
        "Compare",
        "Whether a sentence about two images is true.",
        (Input("Left image", "image"), Input("Right image", "image"), Input("Sentence", "text")),
        ("labels",),
        _rows("nlvr2"),
    ),
    Tab(
        "classify",
        "Classify",
        "Labels of your own, without training for them (zero-shot).",
        (_IMAGE, Input("Labels, one per line or between commas", "lines"), Input("Templates", "lines", "{}")),
        ("labels",),
        _labels,
    ),
)
