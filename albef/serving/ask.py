"""Questions from the command line."""

from __future__ import annotations

from pathlib import Path

from albef.serving import contract
from albef.serving.client import Client, Match


def table(matches: list[Match]) -> str:
    """Answers as a table for people: rank, score, id."""
    lines = [f"{rank:>4}  {match.score:>9.4f}  {match.id}" for rank, match in enumerate(matches, start=1)]
    return "\n".join([f"{'rank':>4}  {'score':>9}  answer", *lines])


def retrieval(
    url: str,
    text: str | None = None,
    image: Path | None = None,
    k: int = contract.DEFAULT_K,
    rerank: bool = contract.DEFAULT_RERANK,
) -> None:
    """Ask the retrieval endpoint at ``url`` and print its answers; errors are those of `Client.retrieve`."""
    with Client(url) as client:
        print(table(client.retrieve(text=text, image=image, k=k, rerank=rerank)))
