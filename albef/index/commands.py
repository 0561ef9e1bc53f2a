"""``albef index``: the gallery of a model repository, built and changed with the repository's own graphs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from albef.data.images import ImageError, open_image, to_pixels
from albef.data.schema import read_list
from albef.data.tokenizer import Encoder, load
from albef.index import builder
from albef.index.builder import Encoders
from albef.index.index import Gallery, GalleryError, Manifest
from albef.index.segments import Batch
from albef.serving import onnxfile, protocol
from albef.serving.protocol import RetrievalSettings
from albef.serving.session import file_hash, open_session

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
_SHOWN = 5


class SourceError(ValueError):
    """What is to be indexed is not there, or cannot be."""


def endpoint(repository: Path, version: int | None = None) -> Path:
    """Folder of the retrieval endpoint in a model repository, by default that of its newest version.

    Raises:
        SourceError: If there is none.
    """
    model = repository / protocol.RETRIEVAL.name
    versions = sorted(int(path.name) for path in model.glob("[0-9]*") if path.name.isdigit())
    if not versions or (version is not None and version not in versions):
        wanted = "" if version is None else f" version {version} of"
        raise SourceError(f"{repository}: no{wanted} {protocol.RETRIEVAL.name} in this model repository")
    return model / str(version or versions[-1])


def encoders(folder: Path, threads: int = 0) -> Encoders:
    """The encoders beside a retrieval endpoint: pictures and captions go the same way as a request's.

    Args:
        folder: Of the endpoint's version.
        threads: Of ONNX Runtime; 0 for one a core.

    Raises:
        GalleryError: If graphs, tokenizer and settings are of different models.
    """
    settings = RetrievalSettings(**json.loads((folder / protocol.SETTINGS_FILE).read_text(encoding="utf-8")))
    words = folder / protocol.TOKENIZER_FOLDER
    paths = {
        graph: folder.parents[1] / protocol.model_name(settings.task, graph) / folder.name / "model.onnx"
        for graph in (protocol.VISION, protocol.TEXT)
    }
    found = {str(path): onnxfile.metadata(path).get(protocol.HASH_KEY, "") for path in paths.values()}
    for path, have in found.items():
        if have != settings.model_hash:
            raise GalleryError(f"{path}: of model {have[:12]}, but {folder} was written for {settings.model_hash[:12]}")
    if file_hash(words / "tokenizer.json") != settings.tokenizer_hash:
        raise GalleryError(f"{words / 'tokenizer.json'}: not the tokenizer that {folder} was written for")
    sessions = {graph: open_session(path, threads) for graph, path in paths.items()}
    encoder = Encoder(load(words))

    def images(files: Sequence[Path]) -> Batch:
        pixels = np.stack([to_pixels(open_image(path), settings.image_size) for path in files])
        outputs = [protocol.IMAGE_EMBEDS, protocol.IMAGE_FEAT]
        embeds, features = sessions[protocol.VISION].run(outputs, {protocol.PIXEL_VALUES: pixels})
        return embeds, features, np.ones(embeds.shape[:2], dtype=np.int64)

    def captions(texts: Sequence[str]) -> Batch:
        ids, mask = encoder.encode_batch(texts, max_tokens=settings.max_tokens, max_words=settings.max_words)
        feeds = {protocol.INPUT_IDS: ids, protocol.ATTENTION_MASK: mask}
        embeds, features = sessions[protocol.TEXT].run([protocol.TEXT_EMBEDS, protocol.TEXT_FEAT], feeds)
        return embeds, features, mask

    return Encoders(settings.model_hash, settings.tokenizer_hash, images, captions, settings.batch_size)


def of_folder(folder: Path) -> dict[str, Path]:
    """The pictures below a folder by their paths from there, which are their ids.

    Raises:
        SourceError: If there are none.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise SourceError(f"{folder}: no pictures here ({', '.join(sorted(SUFFIXES))})")
    return {path.relative_to(folder).as_posix(): path for path in files}


def of_list(path: Path, images: Path) -> tuple[dict[str, Path], list[str]]:
    """The pictures of a retrieval list by their paths in it, and its captions, each once.

    Args:
        images: Folder that the list's paths start from.
    """
    rows = read_list(path, "retrieval")
    captions = [text for row in rows for text in row["caption"]]
    return {row["image"]: images / row["image"] for row in rows}, list(dict.fromkeys(captions))


@dataclass(frozen=True)
class Source:
    """What is to be indexed.

    Args:
        folder: Pictures below it; or
        records: JSON list of retrieval with pictures and captions.
        images: Folder that the list's paths start from; by default the list's own.
        skip_unreadable: Whether pictures that cannot be read are left out. Otherwise nothing is indexed.
    """

    folder: Path | None = None
    records: Path | None = None
    images: Path | None = None
    skip_unreadable: bool = False

    def read(self) -> tuple[dict[str, Path], list[str]]:
        """Pictures by id, and captions.

        Raises:
            SourceError: If there is nothing to index, or something that cannot be read.
        """
        if (self.folder is None) == (self.records is None):
            raise SourceError("give a folder of pictures or a JSON list, one of them")
        if self.folder is not None:
            pictures, captions = of_folder(self.folder), list[str]()
        else:
            assert self.records is not None
            pictures, captions = of_list(self.records, self.images or self.records.parent)
        bad = dict(_unreadable(pictures))
        if bad and not self.skip_unreadable:
            shown = "\n  ".join(list(bad.values())[:_SHOWN])
            more = f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
            raise SourceError(
                f"{len(bad)} pictures cannot be read; --skip-unreadable leaves them out:\n  {shown}{more}"
            )
        return {key: path for key, path in pictures.items() if key not in bad}, captions


def _unreadable(pictures: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Pictures that cannot be read, and why. Encoding takes far longer: better to know before."""
    from tqdm import tqdm

    for key, path in tqdm(pictures.items(), desc="pictures", unit="file", disable=None):
        try:
            open_image(path)
        except ImageError as error:
            yield key, str(error)


def build(repository: Path, source: Source, dtype: str = "float32", version: int | None = None) -> Manifest:
    """Put a new gallery in place of the one of a model repository; a running server takes it up."""
    folder = endpoint(repository, version)
    pictures, captions = source.read()
    return builder.build(folder / protocol.GALLERY_FOLDER, encoders(folder), pictures, captions, dtype)


def add(repository: Path, source: Source, version: int | None = None) -> Manifest:
    """Add pictures and captions to the gallery of a model repository; see `albef.index.builder.add`."""
    folder = endpoint(repository, version)
    pictures, captions = source.read()
    return builder.add(folder / protocol.GALLERY_FOLDER, encoders(folder), pictures, captions)


def remove(repository: Path, ids: Sequence[str], captions: bool = False, version: int | None = None) -> Manifest:
    """Take pictures, or captions, out of the gallery of a model repository."""
    folder = endpoint(repository, version) / protocol.GALLERY_FOLDER
    return builder.remove(folder, [] if captions else ids, ids if captions else [])


def describe(repository: Path, version: int | None = None) -> str:
    """What the gallery of a model repository holds, for people."""
    folder = endpoint(repository, version) / protocol.GALLERY_FOLDER
    manifest = Gallery(folder).manifest
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    lines = [f"{folder}: change {manifest.generation}, {size / 2**20:.1f} MiB, embeddings in {manifest.dtype}"]
    for kind, part in (("images", manifest.images), ("captions", manifest.captions)):
        lines.append(f"  {part.count} {kind}, {part.search} search, {len(part.segments)} segments")
    lines.append(f"  model {manifest.model_hash[:12]}, tokenizer {manifest.tokenizer_hash[:12]}")
    return "\n".join(lines)
