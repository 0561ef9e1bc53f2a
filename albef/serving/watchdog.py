"""Watchdog of a Triton server: finds models that no longer answer, and loads them again.

Triton reports a model as ready although its process has died, so only an answer proves that it works. A model that has
answered a client since the last round needs no question.
"""

from __future__ import annotations

import io
import logging
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from albef.serving.client import Client, ServingError
from albef.serving.probes import default_probes
from albef.serving.protocol import PROBE_ID
from albef.serving.requests import InvalidRequestError, Request
from albef.serving.transport import infer_arguments, translated_errors
from albef.tasks import registry

_logger = logging.getLogger(__name__)
_LENGTH = 8  # of dimensions that are free
_TYPES = {"TYPE_FP32": np.float32, "TYPE_INT64": np.int64, "TYPE_INT32": np.int32, "TYPE_BOOL": np.bool_}


class UnrepairableError(ServingError):
    """A model does not answer, and loading it again did not help."""


class Watchdog:
    """Rounds of questions to all models of a server.

    Args:
        report: Called with the readiness of each endpoint when it may have changed.
        timeout: Seconds for an answer, also under load.
    """

    def __init__(self, report: Callable[[dict[str, bool]], None], timeout: float = 20.0) -> None:
        self.report, self.timeout = report, timeout
        self._counts: dict[str, tuple[int, int]] = {}

    def round(self, client: Client) -> None:
        """Ask all models that have not answered since the last round, and repair them.

        Args:
            client: Client of Triton itself.

        Raises:
            UnrepairableError: If a model still does not answer after it was loaded again.
            ServingError: If the server is gone.
        """
        self.client = client
        loaded = client.models()
        endpoints = [name for name in registry.endpoints() if loaded.get(name)]
        progress = self._progress()
        silent = [name for name in endpoints if not progress.get(name) and not self._answered(name)]
        # An answer of an endpoint is one of its graphs, too.
        progress = {name: progress.get(name, False) or new for name, new in self._progress().items()}
        # A graph may have died after its last answer, so those of a silent endpoint are asked in any case.
        suspects = {graph for name in silent for graph in registry.graph_models(name).values()}
        known = dict.fromkeys(graph for name in endpoints for graph in registry.graph_models(name).values())
        graphs = [name for name in known if loaded.get(name)]  # neither release candidates nor unloaded models
        dead = [name for name in graphs if (name in suspects or not progress.get(name)) and not self._answered(name)]
        if dead or silent:
            self.report({name: name not in silent and not _uses(name, dead) for name in endpoints})
        for name in dead:
            self._reload(name)
        for name in silent:
            if not (dead and self._answered(name)):
                self._reload(name)
        for name in [*dead, *silent]:
            if not self._answered(name):
                raise UnrepairableError(f"{name} does not answer, also after it was loaded again")
        self.report(dict.fromkeys(endpoints, True))

    def _progress(self) -> dict[str, bool]:
        """Return whether each model has answered since the last call, and not failed."""
        with translated_errors(self.client.url, "statistics"):
            statistics = self.client.triton.get_inference_statistics(client_timeout=self.timeout).model_stats
        now: dict[str, tuple[int, int]] = {}
        for each in statistics:
            stats, (answers, failures) = each.inference_stats, now.get(each.name, (0, 0))
            # Answers from the cache are no sign of life.
            now[each.name] = answers + stats.success.count - stats.cache_hit.count, failures + stats.fail.count
        before, self._counts = self._counts, now
        return {
            name: answers > before[name][0] and failures == before[name][1]
            for name, (answers, failures) in now.items()
            if name in before
        }

    def _answered(self, name: str) -> bool:
        """Ask a model, and return whether it answers."""
        try:
            with translated_errors(self.client.url, name):
                self.client.triton.infer(**self._question(name), client_timeout=self.timeout)
        except InvalidRequestError:
            return True  # an answer, for example of a search index without images
        except ServingError as error:
            _logger.info("watchdog: %s", error)
            return False
        return True

    def _question(self, name: str) -> dict[str, Any]:
        if name in registry.endpoints():
            (probe,) = default_probes([name])
            by_text = registry.endpoints()[name].inputs[0].optional  # of text and image, it takes one
            image = None if by_text else _new_image()
            request: Request[Any] = registry.client(name).probe(probe.text, image, probe.k)
            return infer_arguments(request) | {"request_id": PROBE_ID}
        return _graph_question(self.client.triton.get_model_config(name, client_timeout=self.timeout).config)

    def _reload(self, name: str) -> None:
        """Unload a model and load it again, which starts its process anew."""
        _logger.warning("%s does not answer and is loaded again", name)
        with translated_errors(self.client.url, name):
            self.client.triton.unload_model(name, client_timeout=self.timeout)
            self.client.triton.load_model(name, client_timeout=60.0)


def _uses(endpoint: str, graphs: list[str]) -> bool:
    """Return whether an endpoint calls one of some graphs."""
    return any(graph in graphs for graph in registry.graph_models(endpoint).values())


def _new_image() -> bytes:
    """Return an image of one random color, which is not in the server's cache."""
    file = io.BytesIO()
    Image.frombytes("RGB", (1, 1), secrets.token_bytes(3)).save(file, "PNG")
    return file.getvalue()


def _graph_question(config: Any) -> dict[str, Any]:
    """Return the arguments of a request with random numbers and the token id 1."""
    from tritonclient.grpc import InferInput, model_config_pb2

    inputs = []
    for tensor in config.input:
        dtype = model_config_pb2.DataType.Name(tensor.data_type)
        shape = [1, *(_LENGTH if size < 0 else size for size in tensor.dims)]
        floats = np.random.default_rng().normal(size=shape).astype(np.float32)
        array = floats if dtype == "TYPE_FP32" else np.ones(shape, _TYPES[dtype])
        value = InferInput(tensor.name, shape, dtype.removeprefix("TYPE_"))
        value.set_data_from_numpy(array)
        inputs.append(value)
    return {"model_name": config.name, "inputs": inputs, "request_id": PROBE_ID}
