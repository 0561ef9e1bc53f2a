"""Retrieval endpoint: a text, an image or both in, ranked ids out.

ITC search in the index yields a shortlist, which the fusion graph re-ranks.

B = queries of a request, P = projection width, k = answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from albef.index.index import Collection, ImageTextIndex, Selection, stamp
from albef.index.items import FilterError
from albef.index.segments import SearchIndexError
from albef.serving import metrics, protocol
from albef.serving.endpoint_values import Array, QueryError, constant, has, padded, softmax, values_of
from albef.tasks.retrieval import spec
from albef.tasks.retrieval.encoding import EncodingEndpoint


@dataclass(frozen=True)
class Options:
    """Options of a request; see `albef.tasks.retrieval.spec.ENDPOINT`."""

    k: int
    offset: int
    rerank: bool
    where: str | None
    min_score: float | None
    distinct: float | None


@dataclass
class Shortlist:
    """Candidates of a query, best first.

    Attributes:
        scores: Similarities, after re-ranking probabilities.
    """

    scores: Array
    rows: Array

    def page(self, part: slice, min_score: float | None) -> tuple[Array, Array]:
        """Return rows and scores of a page, without those below ``min_score``."""
        rows, scores = self.rows[part], self.scores[part]
        kept = np.ones(len(rows), dtype=bool) if min_score is None else scores >= min_score
        return rows[kept], scores[kept]


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
        self.filtering = asyncio.Lock()

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
        options = self.read_options(request)
        index = self.current_index()
        query, features = await self.encode(request)
        by_text = protocol.TEXT_EMBEDS in query
        collection = index.images if by_text else index.captions
        if not len(collection):
            raise QueryError(
                f"the index contains no {'images' if by_text else 'captions'}",
                protocol.TEXT if by_text else protocol.IMAGE,
            )
        # Candidates are re-ranked in blocks, so that the pages of a query have the same order.
        block = max(options.k, self.settings.shortlist) if options.rerank else 1
        first, end = options.offset // block * block, -(-(options.offset + options.k) // block) * block
        selected = await self.select(collection, options.where) if options.where is not None else None
        found = await asyncio.to_thread(collection.candidates, features, end, selected, options.distinct)
        shortlists = [Shortlist(*(part[first:] for part in each)) for each in found]
        if options.rerank:
            await self.match(query, collection, shortlists, block)
        page = slice(options.offset - first, options.offset - first + options.k)
        pages = [each.page(page, options.min_score) for each in shortlists]
        names = [[name.encode() for name in collection.ids(rows)] for rows, _ in pages]
        return {
            spec.IDS: padded(names, b"", np.object_),
            spec.SCORES: padded((scores.tolist() for _, scores in pages), 0.0, np.float32),
        }

    def read_options(self, request: Any) -> Options:
        """Return the options of a request.

        Raises:
            QueryError: If one is out of range, or does not fit the others.
        """
        both = has(request, protocol.TEXT) and has(request, protocol.IMAGE)

        def number(name: str, low: float, high: float, default: Any) -> Any:
            value = constant(request, name, default)
            if value is not None and not low <= value <= high:
                raise QueryError(f"'{name}' is {value:g}, expected {low:g} to {high:g}", name)
            return value

        if has(request, spec.TEXT_WEIGHT) and not both:
            raise QueryError(f"'{spec.TEXT_WEIGHT}' needs both a text and an image", spec.TEXT_WEIGHT)
        where = constant(request, spec.WHERE, None)
        try:
            where = None if where is None else where.decode()
        except UnicodeDecodeError as error:
            raise QueryError(f"'{spec.WHERE}' is not UTF-8 ({error})", spec.WHERE) from error
        return Options(
            k=self.read_k(request, spec.DEFAULT_K),
            offset=number(spec.OFFSET, 0, spec.MAX_OFFSET, 0),
            # The match head compares candidates with the text alone and would undo a query by both.
            rerank=bool(constant(request, spec.RERANK, not both)),
            where=where,
            min_score=number(spec.MIN_SCORE, -1, 1, None),
            distinct=number(spec.DISTINCT, 0, 1, None),
        )

    async def select(self, collection: Collection, where: str) -> Selection:
        """Return the rows that a filter selects.

        One filter at a time, so that slow ones delay only each other.

        Raises:
            QueryError: If the filter is invalid or takes too long.
        """
        async with self.filtering:
            try:
                return await asyncio.to_thread(collection.select, where)
            except FilterError as error:
                raise QueryError(f"'{spec.WHERE}' {error}", spec.WHERE) from error

    async def encode(self, request: Any) -> tuple[dict[str, Array], Array]:
        """Return inputs of the fusion graph, and features ``(B, P)``.

        The inputs are those of the text, if there is one.

        Raises:
            QueryError: If the request has neither text nor image.
        """
        if not has(request, protocol.TEXT):
            if not has(request, protocol.IMAGE):
                raise QueryError("give 'text', 'image' or both; this request has neither", protocol.TEXT)
            embeds, features = await self.encode_images(request)
            return {protocol.IMAGE_EMBEDS: embeds}, features
        query, features = await self.encode_texts(self.texts(request))
        if has(request, protocol.IMAGE):
            values = values_of(request, spec.TEXT_WEIGHT)
            weight = spec.DEFAULT_TEXT_WEIGHT if values is None else values.reshape(-1, 1)
            if not np.all((weight >= 0) & (weight <= 1)):
                raise QueryError(f"'{spec.TEXT_WEIGHT}' is not from 0 to 1", spec.TEXT_WEIGHT)
            _, images = await self.encode_images(request)
            features = weight * features + (1 - weight) * images
            features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        return query, features

    async def encode_texts(self, texts: Sequence[str]) -> tuple[dict[str, Array], Array]:
        """Return text inputs of the fusion graph, and features ``(B, P)``."""
        feeds = self.tokenize(texts)
        embeds, features = await self.infer(spec.TEXT_GRAPH, feeds, [protocol.TEXT_EMBEDS, protocol.TEXT_FEAT])
        return {protocol.TEXT_EMBEDS: embeds, protocol.ATTENTION_MASK: feeds[protocol.ATTENTION_MASK]}, features

    async def match(
        self, query: dict[str, Array], collection: Collection, shortlists: Sequence[Shortlist], block: int
    ) -> None:
        """Re-rank the candidates of each query in blocks.

        Args:
            query: Inputs of the fusion graph for the queries.
        """
        query_rows = np.repeat(np.arange(len(shortlists)), [len(each.rows) for each in shortlists])
        candidates, size = np.concatenate([each.rows for each in shortlists]), self.settings.batch_size
        by_image = protocol.IMAGE_EMBEDS in query

        async def match_batch(start: int) -> Array:
            batch = slice(start, start + size)
            feeds = {name: array[query_rows[batch]] for name, array in query.items()}
            embeds, mask = collection.segments.embeds(candidates[batch], protocol.LENGTH_STEP if by_image else 1)
            if by_image:
                feeds.update({protocol.TEXT_EMBEDS: embeds, protocol.ATTENTION_MASK: mask})
            else:
                feeds[protocol.IMAGE_EMBEDS] = embeds
            (logits,) = await self.infer(spec.FUSION_GRAPH, feeds, [spec.ITM_LOGITS])
            return logits

        self.count(metrics.SHORTLISTED, len(candidates))
        self.count(metrics.SHORTLISTS, len(shortlists))
        if not len(candidates):
            return
        batches = await asyncio.gather(*(match_batch(start) for start in range(0, len(candidates), size)))
        logits = np.concatenate(batches)
        keys, probabilities = logits[:, spec.MATCH], softmax(logits)[:, spec.MATCH]
        for row, each in enumerate(shortlists):
            key = keys[query_rows == row]
            if self.settings.score == "itm+itc":
                key = key + each.scores / self.settings.temperature
            order = np.lexsort((-key, np.arange(len(key)) // block))
            each.rows, each.scores = each.rows[order], probabilities[query_rows == row][order]
