"""The repository stage: exported graphs, the endpoints and the gallery as a Triton model repository.

Nothing in it is an absolute path: the folder serves from a laptop and, mounted, from NVIDIA's container.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.config import Config, ConfigError
from albef.data.files import image_root, new_folder
from albef.data.schema import VE_LABELS
from albef.export import vendoring
from albef.index import builder, commands
from albef.serving import onnxfile, pbtxt, protocol
from albef.serving.protocol import GraphSizes
from albef.serving.runtime import INFRA
from albef.serving.session import check_signature, file_hash, open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GALLERY_LIST, ANSWER_LIST = "retrieval_test.json", "answer_list.json"


class RepositoryError(ValueError):
    """The inputs of a model repository do not belong together."""


def read_sizes(sessions: dict[str, InferenceSession]) -> GraphSizes:
    """The sizes of a model, from the signatures of its graphs; 0 for what none of them shows."""
    shape = {t.name: t.shape for s in sessions.values() for t in (*s.get_inputs(), *s.get_outputs())}
    text = shape.get(protocol.TEXT_EMBEDS) or shape.get(protocol.QUESTION_STATES) or [0]
    try:
        return GraphSizes(
            image_size=shape[protocol.PIXEL_VALUES][2],
            image_tokens=shape[protocol.IMAGE_EMBEDS][1],
            vision_width=shape[protocol.IMAGE_EMBEDS][2],
            text_width=text[-1],
            projection=shape.get(protocol.IMAGE_FEAT, [0])[-1],
            vocabulary=shape.get(protocol.NEXT_LOG_PROBS, [0])[-1],
        )
    except (KeyError, IndexError) as error:
        raise RepositoryError(f"the graphs lack the tensor or the dimension {error} of the serving contract") from error


def read_origin(paths: Sequence[Path], tokenizer: Path, task: str = "retrieval") -> dict[str, str]:
    """The metadata the graphs of a task share; the temperature is that of retrieval alone.

    Raises:
        RepositoryError: If they are of different models, or of another tokenizer.
    """
    keys = [protocol.HASH_KEY, protocol.TOKENIZER_KEY]
    if task == protocol.RETRIEVAL.name:
        keys.append(protocol.TEMPERATURE_KEY)
    origins = [onnxfile.metadata(path) for path in paths]
    for path, origin in zip(paths, origins, strict=True):
        for key in keys:
            if not origin.get(key):
                raise RepositoryError(f"{path}: no {key} in the metadata; expected a graph written by `albef export`")
            if origin[key] != origins[0][key]:
                raise RepositoryError(f"{path}: {key} is {origin[key]}, but {paths[0]} has {origins[0][key]}")
    if origins[0][protocol.TOKENIZER_KEY] != file_hash(tokenizer / "tokenizer.json"):
        raise RepositoryError(f"{tokenizer / 'tokenizer.json'}: not the tokenizer that {paths[0]} was exported with")
    return origins[0]


def _check(config: Config) -> None:
    serve = config.serve
    for key in ("version", "max_batch_size", "max_queries", "instances", "threads", "shortlist", "max_k"):
        if getattr(serve, key) < 1:
            raise ConfigError(f"params.serve.{key}: expected 1 or more, got {getattr(serve, key)}")
    if config.tasks.vqa.evaluate.beams > serve.max_queries:
        raise ConfigError(
            f"params.tasks.vqa.evaluate.beams: expected at most serve.max_queries, {serve.max_queries}, "
            f"got {config.tasks.vqa.evaluate.beams}"
        )


def _model(folder: Path, spec: protocol.ModelSpec, run: pbtxt.Deployment, version: int) -> Path:
    """Write a model's ``config.pbtxt``; returns the folder of its version."""
    target = folder / spec.name / str(version)
    target.mkdir(parents=True)
    (folder / spec.name / "config.pbtxt").write_text(pbtxt.render(spec, run), encoding="utf-8")
    return target


@dataclass(frozen=True)
class _Part:
    """A task on its way into the repository.

    Args:
        endpoint: Folder of its endpoint, holding ``model.py`` and the tokenizer.
        common: The settings that all endpoints have.
    """

    endpoint: Path
    sessions: dict[str, InferenceSession]
    origin: dict[str, str]
    common: dict[str, Any]

    def write(self, settings: protocol.Settings) -> None:
        """Write the endpoint's settings."""
        text = json.dumps(asdict(settings), indent=1) + "\n"
        (self.endpoint / protocol.SETTINGS_FILE).write_text(text, encoding="utf-8")


def _add(folder: Path, config: Config, task: str, exported: Path, tokenizer: Path) -> _Part:
    """Write the graphs of a task, and its endpoint but for what that alone has."""
    serve = config.serve
    names = list(protocol.GRAPHS[task](GraphSizes(1, 1, 1, 1)))
    files = {graph: exported / f"{graph}.onnx" for graph in names}
    origin = read_origin(list(files.values()), tokenizer, task)
    sessions = {graph: open_session(path, serve.threads) for graph, path in files.items()}
    sizes = read_sizes(sessions)
    for graph, spec in protocol.GRAPHS[task](sizes).items():
        check_signature(sessions[graph], spec)
        # A row of the decoder is a question with all its candidates.
        rows = serve.max_queries if graph == protocol.DECODER else serve.max_batch_size
        run = pbtxt.Deployment(
            "onnxruntime", rows, serve.queue_delay_us, serve.instances, serve.threads, cache=graph == protocol.VISION
        )
        shutil.copyfile(files[graph], _model(folder, spec, run, serve.version) / "model.onnx")
    # Queries gather while the instance is busy; waiting for more would only delay a single one.
    endpoint_run = pbtxt.Deployment("python", serve.max_queries, 0, serve.instances)
    endpoint = _model(folder, protocol.ENDPOINTS[task], endpoint_run, serve.version)
    vendoring.copy(INFRA / "models" / task / "model.py", endpoint)
    (endpoint / protocol.TOKENIZER_FOLDER).mkdir()
    shutil.copyfile(tokenizer / "tokenizer.json", endpoint / protocol.TOKENIZER_FOLDER / "tokenizer.json")
    train = getattr(config.tasks, task).train
    common = {
        "task": task,
        "model_hash": origin[protocol.HASH_KEY],
        "tokenizer_hash": origin[protocol.TOKENIZER_KEY],
        "image_size": sizes.image_size,
        "max_words": train.max_words,
        "max_tokens": train.max_tokens or config.model.text.max_positions,
        "batch_size": serve.max_batch_size,
        "max_k": serve.max_k,
        "max_image_bytes": serve.max_image_bytes,
        "max_image_pixels": serve.max_image_pixels,
    }
    return _Part(endpoint, sessions, origin, common)


def add_retrieval(part: _Part, config: Config, lists: Path, images: Path, tokenizer: Path) -> None:
    """Settings and gallery of the retrieval endpoint."""
    settings = protocol.RetrievalSettings(
        **part.common,
        shortlist=config.serve.shortlist,
        score=config.tasks.retrieval.evaluate.score,
        temperature=float(part.origin[protocol.TEMPERATURE_KEY]),
    )
    part.write(settings)
    pictures, captions = commands.of_list(lists / GALLERY_LIST, images)
    encoders = commands.encoders(part.endpoint, config.serve.threads)
    builder.build(part.endpoint / protocol.GALLERY_FOLDER, encoders, pictures, captions, config.serve.index_dtype)


def add_vqa(part: _Part, config: Config, lists: Path, images: Path, tokenizer: Path) -> None:
    """Settings and answers of the VQA endpoint."""
    choose = config.tasks.vqa.evaluate
    settings = protocol.VqaSettings(
        **part.common,
        generate=choose.mode == "generate",
        shortlist=choose.shortlist,
        beams=choose.beams,
        max_answer_tokens=choose.max_tokens,
        official_quirks=config.model.official_quirks,
    )
    part.write(settings)
    shutil.copyfile(lists / ANSWER_LIST, part.endpoint / protocol.ANSWERS_FILE)


def add_entailment(part: _Part, config: Config, lists: Path, images: Path, tokenizer: Path) -> None:
    """Settings of the visual entailment endpoint."""
    part.write(protocol.EntailmentSettings(**part.common, labels=list(VE_LABELS)))


def add_grounding(part: _Part, config: Config, lists: Path, images: Path, tokenizer: Path) -> None:
    """Settings of the grounding endpoint."""
    part.write(protocol.Settings(**part.common))


_FINISH: dict[str, Callable[[_Part, Config, Path, Path, Path], None]] = {
    "retrieval": add_retrieval,
    "vqa": add_vqa,
    "entailment": add_entailment,
    "grounding": add_grounding,
}


def run(config: Config, export: Path, lists: Path, images: Path, tokenizer: Path, out: Path) -> None:
    """Write the model repository ``out`` from the exported tasks below ``export``.

    Args:
        export: Folder of the export stages, one folder per task; a task that it lacks is not served.
        lists: Folder of the validated lists; the gallery is the retrieval test list.
        images: Folder that relative image paths start from.
        tokenizer: Folder with ``tokenizer.json``.

    Raises:
        RepositoryError: If there is nothing to serve, or the inputs do not belong together; nothing is written then.
        GraphError: If a graph's signature is not the contract's.
    """
    _check(config)
    tasks = [task for task in _FINISH if (export / task).is_dir()]
    if not tasks:
        raise RepositoryError(f"{export}: no exported task to serve, expected one of {', '.join(_FINISH)}")
    with new_folder(out) as folder:
        for task in tasks:
            part = _add(folder, config, task, export / task, tokenizer)
            _FINISH[task](part, config, lists, image_root(images), tokenizer)
