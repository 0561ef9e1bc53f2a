"""``albef index``: build and change the index of a model repository.

Images and captions are encoded with the graphs of the repository.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from albef.data.images import SUFFIXES, ImageError, StoredImage, load_image, to_pixels
from albef.data.lists import Images, Rows, records_of
from albef.data.tokenizer import Encoder, load
from albef.index import builder, items
from albef.index.builder import Encoders
from albef.index.index import KINDS, ImageTextIndex, Manifest
from albef.index.metadata import Metadata, read
from albef.index.segments import Batch, SearchIndexError
from albef.io import file_hash
from albef.serving import protocol
from albef.serving.session import metadata, open_session
from albef.tasks import registry

ENDPOINT, TEXT_GRAPH = "retrieval", "text"
"""Endpoint that searches the index, and its graph that encodes texts."""
_MAX_ERRORS = 5
"""Unreadable images listed in an error message."""


class SourceError(ValueError):
    """The source to index is missing or cannot be read."""


def endpoint_folder(repository: Path, version: int | None = None) -> Path:
    """Return the folder of the retrieval endpoint in a model repository.

    Args:
        version: Version of the endpoint; by default the newest.

    Raises:
        SourceError: If the repository has no such endpoint.
    """
    model = repository / ENDPOINT
    versions = sorted(int(path.name) for path in model.glob("[0-9]*") if path.name.isdigit())
    if not versions or (version is not None and version not in versions):
        which = "" if version is None else f" version {version} of"
        raise SourceError(f"{repository}: no{which} {ENDPOINT} in this model repository")
    return model / str(version or versions[-1])


def load_encoders(folder: Path, threads: int = 0) -> Encoders:
    """Load the encoders of a retrieval endpoint.

    They preprocess inputs in the same way as the endpoint.

    Args:
        folder: Version folder of the endpoint.
        threads: ONNX Runtime threads; 0 for one per core.

    Raises:
        SearchIndexError: If graphs, tokenizer and settings belong to different models.
    """
    text = (folder / protocol.SETTINGS_FILE).read_text(encoding="utf-8")
    settings = registry.spec(ENDPOINT).settings(**json.loads(text))
    tokenizer = folder / protocol.TOKENIZER_FOLDER
    paths = {
        graph: folder.parents[1] / protocol.model_name(settings.task, graph) / folder.name / "model.onnx"
        for graph in (protocol.VISION, TEXT_GRAPH)
    }
    sessions = {graph: open_session(path, threads) for graph, path in paths.items()}
    for graph, path in paths.items():
        actual = metadata(sessions[graph]).get(protocol.HASH_KEY, "")
        if actual != settings.model_hash:
            raise SearchIndexError(
                f"{path}: model hash {actual[:12]}, but {folder / protocol.SETTINGS_FILE} expects "
                f"{settings.model_hash[:12]}; write the model repository again"
            )
    if file_hash(tokenizer / "tokenizer.json") != settings.tokenizer_hash:
        raise SearchIndexError(
            f"{tokenizer / 'tokenizer.json'}: hash differs from the one in {folder / protocol.SETTINGS_FILE}; "
            "write the model repository again"
        )
    encoder = Encoder(load(tokenizer))

    def images(stored: Sequence[StoredImage]) -> Batch:
        pixels = np.stack([to_pixels(load_image(image), settings.image_size) for image in stored])
        outputs = [protocol.IMAGE_EMBEDS, protocol.IMAGE_FEAT]
        embeds, features = sessions[protocol.VISION].run(outputs, {protocol.PIXEL_VALUES: pixels})
        return embeds, features, np.ones(embeds.shape[:2], dtype=np.int64)

    def captions(texts: Sequence[str]) -> Batch:
        ids, mask = encoder.encode_batch(texts, max_tokens=settings.max_tokens, max_words=settings.max_words)
        feeds = {protocol.INPUT_IDS: ids, protocol.ATTENTION_MASK: mask}
        embeds, features = sessions[TEXT_GRAPH].run([protocol.TEXT_EMBEDS, protocol.TEXT_FEAT], feeds)
        return embeds, features, mask

    return Encoders(settings.model_hash, settings.tokenizer_hash, images, captions, settings.batch_size)


def images_in_folder(folder: Path) -> dict[str, StoredImage]:
    """Return image files below a folder by their relative paths.

    These paths are the ids of the images.

    Raises:
        SourceError: If there are none.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise SourceError(f"{folder}: no images found; expected files with suffix {', '.join(sorted(SUFFIXES))}")
    images = Images(folder)
    return {key: images.find(key) for key in (path.relative_to(folder).as_posix() for path in files)}


def images_and_captions(rows: Rows) -> tuple[dict[str, StoredImage], list[str]]:
    """Return images by path, and distinct captions, of a retrieval list."""
    images = {image.path: image for row, record in enumerate(rows) for image in rows.images(row, record)}
    return images, list(dict.fromkeys(text for record in rows for text in record["caption"]))


@dataclass(frozen=True)
class Source:
    """Images and captions to index, from a folder or a list, and metadata.

    Args:
        folder: Folder that is searched for images.
        records: Retrieval list of images and captions.
        images: Folder of the prepared data, or that the paths in the list are relative to; by default the folder of
            the list.
        skip_unreadable: Leave out unreadable images, and their metadata, instead of raising an error.
        metadata: File that `albef.index.metadata.read` reads.
    """

    folder: Path | None = None
    records: Path | None = None
    images: Path | None = None
    skip_unreadable: bool = False
    metadata: Path | None = None

    def read(self) -> tuple[dict[str, StoredImage], list[str], Metadata | None]:
        """Return images by id, captions, and metadata.

        Raises:
            SourceError: If there is nothing to index, or an image cannot be read.
        """
        if self.folder is not None and self.records is not None:
            raise SourceError("expected either a folder of images or a JSON list, got both")
        metadata = None if self.metadata is None else read(self.metadata)
        images, captions = dict[str, StoredImage](), list[str]()
        if self.folder is not None:
            images = images_in_folder(self.folder)
        elif self.records is not None:
            stored = Images(self.images or self.records.parent)
            records = records_of(self.records, "retrieval")
            images, captions = images_and_captions(Rows(records, stored, str(self.records), "retrieval"))
        unreadable = dict(_unreadable(images))
        if unreadable and not self.skip_unreadable:
            errors = "\n  ".join(list(unreadable.values())[:_MAX_ERRORS])
            more = f"\n  and {len(unreadable) - _MAX_ERRORS} more" if len(unreadable) > _MAX_ERRORS else ""
            raise SourceError(
                f"{len(unreadable)} images cannot be read; fix them or leave them out with --skip-unreadable:"
                f"\n  {errors}{more}"
            )
        for key in unreadable:
            del images[key]
            if metadata is not None:
                metadata.rows.pop(key, None)
        return images, captions, metadata


def _unreadable(images: Mapping[str, StoredImage]) -> Iterator[tuple[str, str]]:
    """Yield ids of unreadable images with the error.

    This check comes first because encoding takes far longer.
    """
    from tqdm import tqdm

    for key, image in tqdm(images.items(), desc="images", unit="file", disable=None):
        try:
            load_image(image)
        except ImageError as error:
            yield key, str(error)


def build(repository: Path, source: Source, dtype: str = "float32", version: int | None = None) -> Manifest:
    """Build the index of a model repository.

    A running server uses the new index from its next request on.
    """
    folder = endpoint_folder(repository, version)
    images, captions, metadata = source.read()
    return builder.build(folder / protocol.INDEX_FOLDER, load_encoders(folder), images, captions, dtype, metadata)


def add(repository: Path, source: Source, version: int | None = None) -> Manifest:
    """Add images, captions and metadata; see `albef.index.builder.add`."""
    folder = endpoint_folder(repository, version)
    return builder.add(folder / protocol.INDEX_FOLDER, load_encoders(folder), *source.read())


def remove(repository: Path, ids: Sequence[str], captions: bool = False, version: int | None = None) -> Manifest:
    """Remove images (or captions) from the index of a model repository."""
    folder = endpoint_folder(repository, version) / protocol.INDEX_FOLDER
    return builder.remove(folder, [] if captions else ids, ids if captions else [])


def describe(repository: Path, version: int | None = None) -> str:
    """Return a summary of the index of a model repository as text."""
    folder = endpoint_folder(repository, version) / protocol.INDEX_FOLDER
    index = ImageTextIndex(folder)
    manifest = index.manifest
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    lines = [f"{folder}: change {manifest.generation}, {size / 2**20:.1f} MiB, embeddings in {manifest.dtype}"]
    for kind, part in zip(KINDS, (index.images, index.captions), strict=True):
        search = "ivf" if hasattr(part.index, "nlist") else "exact"
        lines.append(f"  {len(part)} {kind}, {search} search, {len(part.part.segments)} segments")
        lines.append(f"    columns {', '.join(items.columns(part.db, kind))}")
    lines.append(f"  model {manifest.model_hash[:12]}, tokenizer {manifest.tokenizer_hash[:12]}")
    return "\n".join(lines)
