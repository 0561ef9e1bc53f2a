"""The retrieval endpoint: a text or a picture in, ranked ids out.

An ITC search in the gallery gives a shortlist, the fusion graph re-ranks it.
"""

import asyncio

import numpy as np

from albef.index.index import ImageTextIndex, SearchIndexError, stamp, top_k
from albef.serving import metrics, protocol
from albef.serving.endpoint import Endpoint, QueryError, constant, has
from albef.tasks.retrieval import spec


class TritonPythonModel(Endpoint):
    """One instance of the endpoint."""

    task = spec.SPEC

    def initialize(self, args):
        """Open the gallery and check that it belongs to the graphs."""
        super().initialize(args)
        self.refused = None
        self.gallery = self.open()

    def open(self):
        """The gallery as it is now."""
        found = ImageTextIndex(self.folder / protocol.INDEX_FOLDER)
        return found.check(self.settings.model_hash, self.settings.tokenizer_hash)

    def current(self):
        """The gallery, opened again if it was changed. One that cannot be used is complained of once, and not taken."""
        try:
            now = stamp(self.gallery.folder)
            if now not in (self.gallery.stamp, self.refused):
                self.refused = now
                self.gallery = self.open()
        except SearchIndexError as error:
            self.log("error", "gallery", message=f"the changed gallery is not taken: {error}")
        return self.gallery

    async def answer(self, request):
        """Ids (bytes) and scores of a request, both ``(B, k)``."""
        k = self.read_k(request, spec.DEFAULT_K)
        rerank = bool(constant(request, spec.RERANK, spec.DEFAULT_RERANK))
        gallery = self.current()
        by_text = self.by_text(request)
        found = gallery.images if by_text else gallery.captions
        if not len(found):
            raise QueryError(
                f"this gallery holds no {'images' if by_text else 'captions'}",
                protocol.TEXT if by_text else protocol.IMAGE,
            )
        query, features = await (self.encode_texts(self.texts(request)) if by_text else self.encode_images(request))
        scores, rows = found.search(features, max(k, self.settings.shortlist) if rerank else k)
        if rerank:
            logits = await self.match(query, found, rows)
            self.meter.add(metrics.SHORTLISTED, rows.size)
            self.meter.add(metrics.SHORTLISTS, len(rows))
            scores = logits + scores / self.settings.temperature if self.settings.score == "itm+itc" else logits
        best = np.stack([top_k(line, k) for line in scores])
        rows, scores = np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1)
        ids = np.array([found.name(row).encode() for row in rows.reshape(-1)], dtype=np.object_).reshape(rows.shape)
        return {spec.IDS: ids, spec.SCORES: scores.astype(np.float32)}

    def by_text(self, request):
        """Whether a request asks by text rather than by image.

        Raises:
            QueryError: If it has both or neither.
        """
        text, image = has(request, protocol.TEXT), has(request, protocol.IMAGE)
        if text == image:
            have = "both" if text else "neither"
            raise QueryError(f"give exactly one of 'text' and 'image'; this request has {have}", protocol.TEXT)
        return text

    async def encode_texts(self, texts):
        """The fusion graph's text inputs for some texts, and their features."""
        feeds = self.tokenize(texts)
        embeds, features = await self.infer(spec.TEXT_GRAPH, feeds, [protocol.TEXT_EMBEDS, protocol.TEXT_FEAT])
        return {protocol.TEXT_EMBEDS: embeds, protocol.ATTENTION_MASK: feeds[protocol.ATTENTION_MASK]}, features

    async def encode_images(self, request):
        """The fusion graph's image input for the images of a request, and their features."""
        (embeds, features), _ = await self.run_vision(request, [protocol.IMAGE_EMBEDS, protocol.IMAGE_FEAT])
        return {protocol.IMAGE_EMBEDS: embeds}, features

    async def match(self, query, gallery, rows):
        """Match logits ``(queries, candidates)`` of every query with its candidates, ``rows`` of a gallery's part."""
        owners = np.repeat(np.arange(len(rows)), rows.shape[1])
        candidates, size = rows.reshape(-1), self.settings.batch_size
        by_image = protocol.IMAGE_EMBEDS in query

        async def part(start):
            chosen = slice(start, start + size)
            feeds = {name: array[owners[chosen]] for name, array in query.items()}
            embeds, mask = gallery.embeds(candidates[chosen], protocol.LENGTH_STEP if by_image else 1)
            if by_image:
                feeds.update({protocol.TEXT_EMBEDS: embeds, protocol.ATTENTION_MASK: mask})
            else:
                feeds[protocol.IMAGE_EMBEDS] = embeds
            (logits,) = await self.infer(spec.FUSION_GRAPH, feeds, [spec.ITM_LOGITS])
            return logits[:, spec.MATCH]

        parts = await asyncio.gather(*(part(start) for start in range(0, len(candidates), size)))
        return np.concatenate(parts).reshape(rows.shape)
