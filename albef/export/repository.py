"""The repository stage: exported graphs, the endpoint and its gallery as a Triton model repository.

Nothing in it is an absolute path: the folder serves from a laptop and, mounted, from NVIDIA's container.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from albef.config import Config, ConfigError, ServeConfig
from albef.data.files import image_root, new_folder
from albef.data.images import open_image, to_pixels
from albef.data.schema import read_list
from albef.data.tokenizer import Encoder, load
from albef.export import bundle
from albef.export.session import check_signature, file_hash, open_session
from albef.serving import contract, gallery, onnxfile, pbtxt
from albef.serving.contract import GraphSizes
from albef.serving.runtime import INFRA

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GALLERY_LIST = "retrieval_test.json"
Floats = NDArray[np.floating[Any]]


class RepositoryError(ValueError):
    """The inputs of a model repository do not belong together."""


def read_sizes(sessions: dict[str, InferenceSession]) -> GraphSizes:
    """The sizes of a model, from the signatures of its graphs."""
    shape = {t.name: t.shape for s in sessions.values() for t in (*s.get_inputs(), *s.get_outputs())}
    try:
        return GraphSizes(
            image_size=shape[contract.PIXEL_VALUES][2],
            image_tokens=shape[contract.IMAGE_EMBEDS][1],
            vision_width=shape[contract.IMAGE_EMBEDS][2],
            text_width=shape[contract.TEXT_EMBEDS][2],
            projection=shape[contract.IMAGE_FEAT][1],
        )
    except (KeyError, IndexError) as error:
        raise RepositoryError(f"the graphs lack the tensor or the dimension {error} of the serving contract") from error


def read_origin(paths: Sequence[Path], tokenizer: Path) -> dict[str, str]:
    """The metadata the graphs share.

    Raises:
        RepositoryError: If they are of different models, or of another tokenizer.
    """
    origins = [onnxfile.metadata(path) for path in paths]
    for path, origin in zip(paths, origins, strict=True):
        for key in (contract.HASH_KEY, contract.TOKENIZER_KEY, contract.TEMPERATURE_KEY):
            if not origin.get(key):
                raise RepositoryError(f"{path}: no {key} in the metadata; expected a graph written by `albef export`")
            if origin[key] != origins[0][key]:
                raise RepositoryError(f"{path}: {key} is {origin[key]}, but {paths[0]} has {origins[0][key]}")
    if origins[0][contract.TOKENIZER_KEY] != file_hash(tokenizer / "tokenizer.json"):
        raise RepositoryError(f"{tokenizer / 'tokenizer.json'}: not the tokenizer that {paths[0]} was exported with")
    return origins[0]


def _check(serve: ServeConfig) -> None:
    for key in ("version", "max_batch_size", "max_queries", "instances", "threads", "shortlist", "max_k"):
        if getattr(serve, key) < 1:
            raise ConfigError(f"params.serve.{key}: expected 1 or more, got {getattr(serve, key)}")


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    from tqdm import tqdm

    with tqdm(total=len(items), desc="gallery", unit="row", disable=None) as bar:
        for start in range(0, len(items), size):
            yield items[start : start + size]
            bar.update(len(items[start : start + size]))


def write_gallery(
    folder: Path,
    config: Config,
    sessions: dict[str, InferenceSession],
    origin: dict[str, str],
    encoder: Encoder,
    rows: list[dict[str, Any]],
    images: Path,
) -> None:
    """Encode every image and every distinct caption of ``rows`` with the exported graphs."""
    size = config.serve.max_batch_size
    words = config.tasks.retrieval.train
    names = list(dict.fromkeys(row["image"] for row in rows))
    captions = list(dict.fromkeys(text for row in rows for text in row["caption"]))
    pixels = sessions[contract.VISION].get_inputs()[0].shape[2]

    def encode_images() -> Iterator[tuple[Floats, Floats]]:
        for batch in _batches(names, size):
            arrays = np.stack([to_pixels(open_image(images / name), pixels) for name in batch])
            outputs = [contract.IMAGE_EMBEDS, contract.IMAGE_FEAT]
            embeds, features = sessions[contract.VISION].run(outputs, {contract.PIXEL_VALUES: arrays})
            yield embeds, features

    def encode_captions() -> Iterator[tuple[Floats, Floats, NDArray[np.int64]]]:
        for batch in _batches(captions, size):
            ids, mask = encoder.encode_batch(batch, max_tokens=words.max_tokens, max_words=words.max_words)
            feeds = {contract.INPUT_IDS: ids, contract.ATTENTION_MASK: mask}
            embeds, features = sessions[contract.TEXT].run([contract.TEXT_EMBEDS, contract.TEXT_FEAT], feeds)
            yield embeds, features, mask

    manifest = gallery.Manifest(origin[contract.HASH_KEY], origin[contract.TOKENIZER_KEY], names, captions)
    gallery.write(folder, manifest, encode_images(), encode_captions(), config.serve.gallery)


def _model(folder: Path, spec: contract.ModelSpec, run: pbtxt.Deployment, version: int) -> Path:
    """Write a model's ``config.pbtxt``; returns the folder of its version."""
    target = folder / spec.name / str(version)
    target.mkdir(parents=True)
    (folder / spec.name / "config.pbtxt").write_text(pbtxt.render(spec, run), encoding="utf-8")
    return target


def add_retrieval(folder: Path, config: Config, exported: Path, lists: Path, images: Path, tokenizer: Path) -> None:
    """Write the graphs of retrieval and its endpoint into the repository ``folder``.

    Raises:
        RepositoryError: If graphs and tokenizer do not belong together.
        GraphError: If a graph's signature is not the contract's.
    """
    serve = config.serve
    files = {graph: exported / f"{graph}.onnx" for graph in (contract.VISION, contract.TEXT, contract.FUSION)}
    origin = read_origin(list(files.values()), tokenizer)
    sessions = {graph: open_session(path, serve.threads) for graph, path in files.items()}
    sizes = read_sizes(sessions)
    graph_run = pbtxt.Deployment(
        "onnxruntime", serve.max_batch_size, serve.queue_delay_us, serve.instances, serve.threads
    )
    for graph, spec in contract.retrieval_graphs(sizes).items():
        check_signature(sessions[graph], spec)
        shutil.copyfile(files[graph], _model(folder, spec, graph_run, serve.version) / "model.onnx")
    # Queries gather while the instance is busy; waiting for more would only delay a single one.
    endpoint_run = pbtxt.Deployment("python", serve.max_queries, 0, serve.instances)
    endpoint = _model(folder, contract.RETRIEVAL, endpoint_run, serve.version)
    bundle.copy(INFRA / "models" / "retrieval" / "model.py", endpoint)
    (endpoint / contract.TOKENIZER_FOLDER).mkdir()
    shutil.copyfile(tokenizer / "tokenizer.json", endpoint / contract.TOKENIZER_FOLDER / "tokenizer.json")
    train = config.tasks.retrieval.train
    settings = contract.RetrievalSettings(
        task="retrieval",
        image_size=sizes.image_size,
        max_words=train.max_words,
        max_tokens=train.max_tokens or config.model.text.max_positions,
        batch_size=serve.max_batch_size,
        shortlist=serve.shortlist,
        max_k=serve.max_k,
        max_image_bytes=serve.max_image_bytes,
        max_image_pixels=serve.max_image_pixels,
        score=config.tasks.retrieval.evaluate.score,
        temperature=float(origin[contract.TEMPERATURE_KEY]),
    )
    (endpoint / contract.SETTINGS_FILE).write_text(json.dumps(asdict(settings), indent=1) + "\n", encoding="utf-8")
    (endpoint / contract.GALLERY_FOLDER).mkdir()
    rows = read_list(lists / GALLERY_LIST)
    write_gallery(endpoint / contract.GALLERY_FOLDER, config, sessions, origin, Encoder(load(tokenizer)), rows, images)


def run(config: Config, export: Path, lists: Path, images: Path, tokenizer: Path, out: Path) -> None:
    """Write the model repository ``out`` from the exported tasks below ``export``.

    Args:
        export: Folder of the export stages, one folder per task.
        lists: Folder of the validated lists; the gallery is the retrieval test list.
        images: Folder that relative image paths start from.
        tokenizer: Folder with ``tokenizer.json``.

    Raises:
        RepositoryError: If the inputs do not belong together; nothing is written then.
    """
    _check(config.serve)
    with new_folder(out) as folder:
        add_retrieval(folder, config, export / "retrieval", lists, image_root(images), tokenizer)
