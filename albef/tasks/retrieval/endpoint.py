"""Retrieval endpoint: a text or an image in, ranked ids out.

ITC search in the index yields a shortlist, which the fusion graph re-ranks.

B = queries of a request, C = candidates of a query, P = projection width, k = answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from albef.index.index import Collection, ImageTextIndex, SearchIndexError, stamp, top_k
from albef.serving import metrics, protocol
from albef.serving.endpoint import Array, QueryError, constant
from albef.tasks.retrieval import spec
from albef.tasks.retrieval.encoding import EncodingEndpoint


class TritonPythonModel(EncodingEndpoint):
    """Retrieval endpoint; reopens its index when it changes on disk."""

    task = spec.SPEC

    def initialize(self, args: dict[str, str]) -> None:
        """Load the endpoint and open the index.

        Raises:
            SearchIndexError: If the index is damaged or was encoded by another model.
        """
        super().initialize(args)
        self.rejected: tuple[int, int] | None = None  # stamp of the last index that could not be opened
        self.index = self.open_index()

    def open_index(self) -> ImageTextIndex:
        """Open the index in its current state."""
        index = ImageTextIndex(self.folder / protocol.INDEX_FOLDER)
        return index.check(self.settings.model_hash, self.settings.tokenizer_hash)

    def current_index(self) -> ImageTextIndex:
        """Return the index, reopened if it changed.

        A changed index that cannot be opened is logged once, and the previous one stays in use.
        """
        try:
            now = stamp(self.index.folder)
            if now not in (self.index.stamp, self.rejected):
                self.rejected = now
                self.index = self.open_index()
        except SearchIndexError as error:
            self.log("error", "index", message=f"cannot open the changed index, keeping the previous one: {error}")
        return self.index

    async def answer(self, request: Any) -> dict[str, Array]:
        """Return ids (bytes) and scores, both ``(B, k)``."""
        k = self.read_k(request, spec.DEFAULT_K)
        rerank = bool(constant(request, spec.RERANK, spec.DEFAULT_RERANK))
        index = self.current_index()
        by_text = self.by_text(request)
        collection = index.images if by_text else index.captions
        if not len(collection):
            raise QueryError(
                f"the index contains no {'images' if by_text else 'captions'}",
                protocol.TEXT if by_text else protocol.IMAGE,
            )
        if by_text:
            query, features = await self.encode_texts(self.texts(request))
        else:
            embeds, features = await self.encode_images(request)
            query = {protocol.IMAGE_EMBEDS: embeds}
        scores, rows = collection.search(features, max(k, self.settings.shortlist) if rerank else k)
        if rerank:
            logits = await self.match(query, collection, rows)
            self.count(metrics.SHORTLISTED, rows.size)
            self.count(metrics.SHORTLISTS, len(rows))
            scores = logits + scores / self.settings.temperature if self.settings.score == "itm+itc" else logits
        best = np.stack([top_k(line, k) for line in scores])
        rows, scores = np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1)
        names = [collection.name(row).encode() for row in rows.reshape(-1).tolist()]
        ids = np.array(names, dtype=np.object_).reshape(rows.shape)
        return {spec.IDS: ids, spec.SCORES: scores.astype(np.float32)}

    async def encode_texts(self, texts: Sequence[str]) -> tuple[dict[str, Array], Array]:
        """Return text inputs of the fusion graph, and features ``(B, P)``."""
        feeds = self.tokenize(texts)
        embeds, features = await self.infer(spec.TEXT_GRAPH, feeds, [protocol.TEXT_EMBEDS, protocol.TEXT_FEAT])
        return {protocol.TEXT_EMBEDS: embeds, protocol.ATTENTION_MASK: feeds[protocol.ATTENTION_MASK]}, features

    async def match(self, query: dict[str, Array], collection: Collection, rows: Array) -> Array:
        """Return the match logits ``(B, C)`` of queries and their candidates.

        Args:
            query: Inputs of the fusion graph for the queries.
            rows: Candidates ``(B, C)``, as row numbers of the collection.
        """
        query_rows = np.repeat(np.arange(len(rows)), rows.shape[1])
        candidates, size = rows.reshape(-1), self.settings.batch_size
        by_image = protocol.IMAGE_EMBEDS in query

        async def match_batch(start: int) -> Array:
            batch = slice(start, start + size)
            feeds = {name: array[query_rows[batch]] for name, array in query.items()}
            embeds, mask = collection.embeds(candidates[batch], protocol.LENGTH_STEP if by_image else 1)
            if by_image:
                feeds.update({protocol.TEXT_EMBEDS: embeds, protocol.ATTENTION_MASK: mask})
            else:
                feeds[protocol.IMAGE_EMBEDS] = embeds
            (logits,) = await self.infer(spec.FUSION_GRAPH, feeds, [spec.ITM_LOGITS])
            column: Array = logits[:, spec.MATCH]
            return column

        batches = await asyncio.gather(*(match_batch(start) for start in range(0, len(candidates), size)))
        return np.concatenate(batches).reshape(rows.shape)
