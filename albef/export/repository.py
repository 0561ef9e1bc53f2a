"""Repository stage: a Triton model repository of graphs, endpoints and index.

The repository contains no absolute paths, so it can be moved, or mounted in NVIDIA's container.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from albef.config import Config, ConfigError, train_config
from albef.data.files import new_folder
from albef.data.lists import Lists
from albef.export import tensorrt, vendoring
from albef.io import file_hash
from albef.serving import pbtxt, protocol
from albef.serving.protocol import ANY, GraphSizes
from albef.serving.session import check_signature, metadata, open_session
from albef.tasks import registry
from albef.tasks.endpoint_folder import EndpointFolder

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


_LIMITS = (
    "max_k",
    "max_image_bytes",
    "max_image_pixels",
    "max_request_pixels",
    "max_candidates",
    "max_boxes",
    "decode_workers",
    "decode_seconds",
)
"""Parameters that the settings of an endpoint repeat."""


class RepositoryError(ValueError):
    """The inputs of a model repository are missing or inconsistent."""


def read_sizes(sessions: dict[str, InferenceSession]) -> GraphSizes:
    """Return the sizes of a model from its graphs.

    Sizes of modules that the model lacks are 0.

    Raises:
        RepositoryError: If the graphs lack a required tensor or dimension.
    """
    shape = {t.name: t.shape for s in sessions.values() for t in (*s.get_inputs(), *s.get_outputs())}

    def last(*names: str) -> int:
        return next((int(shape[name][-1]) for name in names if name in shape), 0)

    try:
        return GraphSizes(
            image_size=shape[protocol.PIXEL_VALUES][2],
            image_tokens=shape[protocol.IMAGE_EMBEDS][1],
            vision_width=shape[protocol.IMAGE_EMBEDS][2],
            text_width=last(protocol.TEXT_EMBEDS, protocol.QUESTION_STATES),
            projection=last(protocol.IMAGE_FEAT),
            vocabulary=last(protocol.NEXT_LOG_PROBS),
        )
    except (KeyError, IndexError) as error:
        names = ", ".join(sessions)
        raise RepositoryError(f"graphs {names}: no tensor or dimension {error}; export them again") from error


def read_origin(graphs: Mapping[Path, InferenceSession], tokenizer: Path) -> dict[str, str]:
    """Return the metadata common to the graphs of a task.

    Args:
        graphs: Session of each graph, by its path.
        tokenizer: Folder with ``tokenizer.json``.

    Raises:
        RepositoryError: If the graphs belong to different models or to another tokenizer.
    """
    origins = {path: metadata(session) for path, session in graphs.items()}
    first, expected = next(iter(origins.items()))
    for path, origin in origins.items():
        for key in (protocol.HASH_KEY, protocol.TOKENIZER_KEY):
            if not origin.get(key):
                raise RepositoryError(f"{path}: no {key} in the metadata; expected a graph written by `albef export`")
        for key in (protocol.HASH_KEY, protocol.TOKENIZER_KEY, protocol.TEMPERATURE_KEY):
            if origin.get(key) != expected.get(key):
                raise RepositoryError(f"{path}: {key} is {origin.get(key)}, but {first} has {expected.get(key)}")
    if expected[protocol.TOKENIZER_KEY] != file_hash(tokenizer / "tokenizer.json"):
        raise RepositoryError(
            f"{tokenizer / 'tokenizer.json'}: not the tokenizer that {first} was exported with; export again"
        )
    return expected


def _check(config: Config) -> None:
    serve = config.serve
    counts = ("version", "max_batch_size", "max_queries", "instances", "threads", "shortlist", *_LIMITS)
    for key in counts:
        least = 0.1 if key == "decode_seconds" else 1
        if getattr(serve, key) < least:
            raise ConfigError(f"params.serve.{key}: expected {least} or more, got {getattr(serve, key)}")


def _model(folder: Path, spec: protocol.ModelSpec, run: pbtxt.Deployment, version: int) -> Path:
    """Write a model's ``config.pbtxt`` and return its version folder."""
    target = folder / spec.name / str(version)
    target.mkdir(parents=True)
    (folder / spec.name / "config.pbtxt").write_text(pbtxt.render(spec, run), encoding="utf-8")
    return target


def _add_graphs(
    folder: Path, config: Config, task: str, exported: Path, tokenizer: Path
) -> tuple[dict[str, str], GraphSizes]:
    """Write the graphs of a task; return their common metadata and sizes."""
    serve = config.serve
    files = {graph: exported / f"{graph}.onnx" for graph in registry.graphs(task)}
    sessions = {graph: open_session(path, serve.threads) for graph, path in files.items()}
    origin = read_origin({files[graph]: session for graph, session in sessions.items()}, tokenizer)
    sizes = read_sizes(sessions)
    for graph, spec in registry.graphs(task, sizes).items():
        check_signature(sessions[graph], spec)
        # Rows with two dynamic dimensions, such as a question with all its candidates, are large.
        large = any(tensor.dims.count(ANY) > 1 for tensor in spec.inputs)
        rows = serve.max_queries if large else serve.max_batch_size
        run = pbtxt.Deployment(
            "onnxruntime",
            rows,
            serve.queue_delay_us,
            serve.instances,
            serve.threads,
            cache=graph == protocol.VISION,
            tensorrt=tensorrt.parameters(serve.tensorrt, spec, rows, _max_tokens(config, task))
            if serve.tensorrt
            else {},
        )
        target = _model(folder, spec, run, serve.version)
        shutil.copyfile(files[graph], target / "model.onnx")
        (target / protocol.ORIGIN_FILE).write_text(
            json.dumps(origin, indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
    return origin, sizes


def _max_tokens(config: Config, task: str) -> int:
    train = train_config(config, task)
    return train.eval_tokens or train.max_tokens or config.model.text.max_positions


def _add_endpoint(
    folder: Path, config: Config, name: str, origin: dict[str, str], sizes: GraphSizes, tokenizer: Path
) -> EndpointFolder:
    """Write an endpoint, except for the settings."""
    spec, serve = registry.endpoint(name), config.serve
    train = train_config(config, spec.task)
    # Requests queue while the instance is busy; a queue delay would only slow down single requests.
    endpoint_run = pbtxt.Deployment("python", serve.max_queries, 0, serve.instances, max_queue=serve.max_queue_size)
    endpoint = _model(folder, registry.endpoints()[name], endpoint_run, serve.version)
    vendoring.copy(f"{registry.package(spec.name)}.endpoint", endpoint)
    (endpoint / protocol.TOKENIZER_FOLDER).mkdir()
    shutil.copyfile(tokenizer / "tokenizer.json", endpoint / protocol.TOKENIZER_FOLDER / "tokenizer.json")
    common = {
        "task": spec.task,
        "model_hash": origin[protocol.HASH_KEY],
        "tokenizer_hash": origin[protocol.TOKENIZER_KEY],
        "image_size": sizes.image_size,
        "max_words": train.max_words,
        "max_tokens": _max_tokens(config, spec.task),
        "batch_size": serve.max_batch_size,
        **{key: getattr(serve, key) for key in _LIMITS},
    }
    return EndpointFolder(endpoint, origin, common)


def run(config: Config, export: Path, lists: Path, images: Path, tokenizer: Path, out: Path) -> None:
    """Write the model repository ``out`` from the exported tasks in ``export``.

    Args:
        export: Folder with one folder of graphs per task; tasks without one are not served.
        lists: Folder of the validated lists; the index holds the retrieval test list.
        images: Folder of the prepared data, or that image paths start from.
        tokenizer: Folder with ``tokenizer.json``.

    Raises:
        RepositoryError: If no task is exported, or the inputs are inconsistent; nothing is written then.
        GraphError: If a graph does not have the signature of its task.
    """
    _check(config)
    served = registry.served_tasks()
    tasks = [task for task in served if (export / task).is_dir()]
    if not tasks:
        raise RepositoryError(f"{export}: no exported task to serve, expected one of {', '.join(served)}")
    data = Lists(lists, images)
    with new_folder(out) as folder:
        for task in tasks:
            origin, sizes = _add_graphs(folder, config, task, export / task, tokenizer)
            for name in registry.endpoints():
                spec = registry.endpoint(name)
                if spec.task == task:
                    endpoint = _add_endpoint(folder, config, name, origin, sizes, tokenizer)
                    registry.module(spec.name, "export").write_endpoint(endpoint, config, data)
