"""Random embeddings for tests of search indexes."""

from __future__ import annotations

import zlib
from pathlib import PurePath

import numpy as np

from albef.data.images import StoredImage
from albef.index.builder import Encoders
from albef.index.index import Collection

TOKENS, WIDTH, FEATURES = 4, 6, 8


def generator(key: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(key.encode()))


def image(key: str):
    """Return embeddings and features of an image, by its file name."""
    rng = generator("image " + key)
    return rng.standard_normal((TOKENS, WIDTH)).astype(np.float32), rng.standard_normal(FEATURES).astype(np.float32)


def caption(text: str):
    rng = generator("caption " + text)
    tokens = rng.standard_normal((rng.integers(1, 10), WIDTH)).astype(np.float32)
    return tokens, rng.standard_normal(FEATURES).astype(np.float32)


def encoders(batch: int = 3, model_hash: str = "m", encoded: list[str] | None = None) -> Encoders:
    """Return encoders that append their inputs to ``encoded``."""

    def images(stored):
        if encoded is not None:
            encoded.extend(PurePath(each.path).name for each in stored)
        found = [image(PurePath(each.path).name) for each in stored]
        return (
            np.stack([tokens for tokens, _ in found]),
            np.stack([features for _, features in found]),
            np.ones((len(found), TOKENS), np.int64),
        )

    def captions(texts):
        if encoded is not None:
            encoded.extend(texts)
        found = [caption(text) for text in texts]
        mask = np.zeros((len(found), 10), np.int64)
        embeds = np.full((len(found), 10, WIDTH), 9, np.float32)
        for row, (tokens, _) in enumerate(found):
            mask[row, : len(tokens)] = 1
            embeds[row, : len(tokens)] = tokens
        return embeds, np.stack([features for _, features in found]), mask

    return Encoders(model_hash, "t", images, captions, batch)


def files(names) -> dict[str, StoredImage]:
    return {name: StoredImage(name, name, name.encode) for name in names}


def rows_by_id(collection: Collection) -> dict[str, int]:
    return dict(zip(collection.ids(collection.rows), collection.rows.tolist(), strict=True))
