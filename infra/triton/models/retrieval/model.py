"""The retrieval endpoint: a text or a picture in, ranked ids out.

An ITC search in the gallery gives a shortlist, the fusion graph re-ranks it. What it imports from ``albef`` lies beside
this file.
"""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np

from albef.serving import contract
from albef.serving.endpoint import Endpoint, QueryError, constant, values_of
from albef.serving.gallery import Gallery, top


class TritonPythonModel(Endpoint):
    """One instance of the endpoint."""

    spec, settings_type = contract.RETRIEVAL, contract.RetrievalSettings

    def initialize(self, args):
        """Open the gallery and check that it belongs to the graphs."""
        super().initialize(args)
        self.gallery = Gallery(self.folder / contract.GALLERY_FOLDER)
        for key in ("model_hash", "tokenizer_hash"):
            have, want = getattr(self.gallery.manifest, key), getattr(self.settings, key)
            if have != want:
                raise ValueError(f"{self.name}: the gallery's {key} is {have[:12]}, but that of the graphs {want[:12]}")

    async def answer(self, request):
        """Ids (bytes) and scores of a request, both ``(B, k)``."""
        k = self.count(request, contract.DEFAULT_K)
        rerank = bool(constant(request, contract.ENDPOINT_RERANK, contract.DEFAULT_RERANK))
        if self.by_text(request):
            query, features = await self.encode_texts(self.texts(request))
            search, names = self.gallery.search_images, self.gallery.manifest.image_ids
        else:
            query, features = await self.encode_images(request)
            search, names = self.gallery.search_captions, self.gallery.manifest.caption_ids
        scores, rows = search(features, max(k, self.settings.shortlist) if rerank else k)
        if rerank:
            logits = await self.match(query, rows)
            scores = logits + scores / self.settings.temperature if self.settings.score == "itm+itc" else logits
        best = np.stack([top(line, k) for line in scores])
        rows, scores = np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1)
        ids = np.array([names[row].encode() for row in rows.reshape(-1)], dtype=np.object_).reshape(rows.shape)
        return {contract.ENDPOINT_IDS: ids, contract.ENDPOINT_SCORES: scores.astype(np.float32)}

    def by_text(self, request):
        """Whether a request asks by text rather than by image.

        Raises:
            QueryError: If it has both or neither.
        """
        text, image = (values_of(request, name) for name in (contract.ENDPOINT_TEXT, contract.ENDPOINT_IMAGE))
        if (text is None) == (image is None):
            have = "neither" if text is None else "both"
            raise QueryError(f"give exactly one of 'text' and 'image'; this request has {have}")
        return text is not None

    async def encode_texts(self, texts):
        """The fusion graph's text inputs for some texts, and their features."""
        feeds = self.words(texts)
        embeds, features = await self.infer(contract.TEXT, feeds, [contract.TEXT_EMBEDS, contract.TEXT_FEAT])
        return {contract.TEXT_EMBEDS: embeds, contract.ATTENTION_MASK: feeds[contract.ATTENTION_MASK]}, features

    async def encode_images(self, request):
        """The fusion graph's image input for the images of a request, and their features."""
        (embeds, features), _ = await self.look(request, [contract.IMAGE_EMBEDS, contract.IMAGE_FEAT])
        return {contract.IMAGE_EMBEDS: embeds}, features

    async def match(self, query, rows):
        """Match logits ``(queries, candidates)`` of every query with its candidates ``rows`` of the gallery."""
        owners = np.repeat(np.arange(len(rows)), rows.shape[1])
        candidates, size = rows.reshape(-1), self.settings.batch_size

        async def part(start):
            chosen = slice(start, start + size)
            feeds = {name: array[owners[chosen]] for name, array in query.items()}
            if contract.IMAGE_EMBEDS in feeds:
                embeds, mask = self.gallery.caption_embeds(candidates[chosen], contract.LENGTH_STEP)
                feeds.update({contract.TEXT_EMBEDS: embeds, contract.ATTENTION_MASK: mask})
            else:
                feeds[contract.IMAGE_EMBEDS] = self.gallery.image_embeds(candidates[chosen])
            (logits,) = await self.infer(contract.FUSION, feeds, [contract.ITM_LOGITS])
            return logits[:, contract.MATCH]

        parts = await asyncio.gather(*(part(start) for start in range(0, len(candidates), size)))
        return np.concatenate(parts).reshape(rows.shape)
