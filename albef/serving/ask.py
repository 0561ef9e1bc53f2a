"""Questions from the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from albef.serving import protocol
from albef.serving.client import Client
from albef.serving.requests import Answer, Grounded, Match

_RETRIES = 2
"""Somebody waits at the terminal: where there is no server it is said at once."""


def _table(rows: Iterable[tuple[float, str]], measure: str) -> str:
    lines = [f"{rank:>4}  {value:>11.4f}  {text}" for rank, (value, text) in enumerate(rows, start=1)]
    return "\n".join([f"{'rank':>4}  {measure:>11}  answer", *lines])


def table(matches: Sequence[Match]) -> str:
    """Matches as a table for people: rank, score, id."""
    return _table(((match.score, match.id) for match in matches), "score")


def answers(found: Sequence[Answer]) -> str:
    """Answers as a table for people: rank, probability, text."""
    return _table(((answer.probability, answer.text) for answer in found), "probability")


def labels(probabilities: dict[str, float]) -> str:
    """Labels as a table for people, likeliest first."""
    return _table(sorted(((p, label) for label, p in probabilities.items()), reverse=True), "probability")


def place(found: Grounded) -> str:
    """Box and heat map in letters: the hotter, the darker."""
    x, y, width, height = found.box
    shades = " .:-=+*#%@"
    top = float(found.heat.max())
    heat = found.heat.clip(min=0) / top if top > 0 else found.heat * 0
    rows = ["".join(2 * shades[round(float(value) * (len(shades) - 1))] for value in row) for row in heat]
    frame = "+" + "--" * found.heat.shape[1] + "+"
    return "\n".join(
        [f"box: x {x:.0f}, y {y:.0f}, width {width:.0f}, height {height:.0f}", frame, *(f"|{r}|" for r in rows), frame]
    )


def retrieval(
    url: str,
    text: str | None = None,
    image: Path | None = None,
    k: int = protocol.DEFAULT_K,
    rerank: bool = protocol.DEFAULT_RERANK,
) -> None:
    """Ask the retrieval endpoint at ``url`` and print its answers; errors are those of `Client`, here and below."""
    with Client(url, retries=_RETRIES) as client:
        print(table(client.retrieve(text=text, image=image, k=k, rerank=rerank)))


def vqa(
    url: str, image: Path, question: str, k: int, candidates: Sequence[str] | None = None, generate: bool | None = None
) -> None:
    """Ask the VQA endpoint and print its answers."""
    with Client(url, retries=_RETRIES) as client:
        print(answers(client.answer(image, question, k, candidates, generate)))


def entailment(url: str, image: Path, hypothesis: str) -> None:
    """Ask the entailment endpoint and print the probabilities."""
    with Client(url, retries=_RETRIES) as client:
        print(labels(client.entail(image, hypothesis)))


def grounding(url: str, image: Path, expression: str) -> None:
    """Ask the grounding endpoint and print box and heat map."""
    with Client(url, retries=_RETRIES) as client:
        print(place(client.ground(image, expression)))
