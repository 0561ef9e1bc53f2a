"""The retrieval endpoint: a text or a picture in, ranked ids out.

An ITC search in the gallery gives a shortlist, the fusion graph re-ranks it. The graphs are other models of the
repository, called in the version of this endpoint, so that a release never mixes two models. What it imports from
``albef`` lies beside this file.
"""

# ruff: noqa: E402
import asyncio
import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import numpy as np
import triton_python_backend_utils as pb_utils

from albef.data.images import ImageError, decode, to_pixels
from albef.data.text import clean
from albef.data.tokenizer import Encoder, load
from albef.serving import contract
from albef.serving.gallery import Gallery, top
from albef.serving.onnxfile import metadata


class QueryError(ValueError):
    """The caller's fault: answered with INVALID_ARGUMENT."""


class GraphError(RuntimeError):
    """A graph behind the endpoint failed."""


def check_hashes(gallery, task, version):
    """Refuse graphs, gallery and tokenizer that do not belong together.

    Raises:
        ValueError: If a graph is missing, or one of the three comes from another model.
    """
    manifest = gallery.manifest
    words = hashlib.sha256((HERE / contract.TOKENIZER_FOLDER / "tokenizer.json").read_bytes()).hexdigest()
    if words != manifest.tokenizer_hash:
        raise ValueError(f"{HERE.name}: the tokenizer is not the one the gallery was encoded with")
    for graph in (contract.VISION, contract.TEXT, contract.FUSION):
        name = contract.model_name(task, graph)
        folder = HERE.parents[1] / name
        if not folder.is_dir():  # a repository in object storage is fetched model by model
            pb_utils.Logger.log_warn(f"retrieval: {name} is not beside this model, its hash goes unchecked")
            continue
        found = metadata(folder / version / "model.onnx").get(contract.HASH_KEY)
        if found != manifest.model_hash:
            raise ValueError(
                f"{name} version {version} is of model {str(found)[:12]}, "
                f"but the gallery was encoded by {manifest.model_hash[:12]}"
            )


def constant(request, name, default):
    """The value of an input that all rows of a request share.

    Raises:
        QueryError: If the rows differ.
    """
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return default
    values = tensor.as_numpy().reshape(-1)
    if (values != values[0]).any():
        raise QueryError(f"'{name}' must be the same for all queries of a request")
    return values[0].item()


def failure(error, code):
    """An answer that reports an error. Always a new object: sharing one between answers crashes the server."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))


class TritonPythonModel:
    """One instance of the endpoint."""

    def initialize(self, args):
        """Open tokenizer and gallery and check that they belong to the graphs."""
        self.version = int(args["model_version"])
        self.settings = contract.RetrievalSettings(**json.loads((HERE / contract.SETTINGS_FILE).read_text()))
        self.encoder = Encoder(load(HERE / contract.TOKENIZER_FOLDER))
        self.gallery = Gallery(HERE / contract.GALLERY_FOLDER)
        check_hashes(self.gallery, self.settings.task, args["model_version"])

    async def execute(self, requests):
        """Answer a batch of requests, each on its own."""
        return await asyncio.gather(*(self.respond(request) for request in requests))

    async def respond(self, request):
        """The answer to one request, or what was wrong with it."""
        try:
            ids, scores = await self.answer(request)
        except (QueryError, ImageError) as error:
            return failure(error, pb_utils.TritonError.INVALID_ARG)
        except Exception as error:
            pb_utils.Logger.log_error(f"retrieval: {type(error).__name__}: {error}")
            return failure(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor(contract.ENDPOINT_IDS, ids),
                pb_utils.Tensor(contract.ENDPOINT_SCORES, scores),
            ]
        )

    async def answer(self, request):
        """Ids (bytes) and scores of a request, both ``(queries, k)``."""
        texts, images, k, rerank = self.read(request)
        if images is None:
            query, features = await self.encode_texts(texts)
            search, names = self.gallery.search_images, self.gallery.manifest.image_ids
        else:
            query, features = await self.encode_images(images)
            search, names = self.gallery.search_captions, self.gallery.manifest.caption_ids
        scores, rows = search(features, max(k, self.settings.shortlist) if rerank else k)
        if rerank:
            logits = await self.match(query, rows)
            scores = logits + scores / self.settings.temperature if self.settings.score == "itm+itc" else logits
        best = np.stack([top(line, k) for line in scores])
        rows, scores = np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1)
        ids = np.array([names[row].encode() for row in rows.reshape(-1)], dtype=np.object_).reshape(rows.shape)
        return ids, np.ascontiguousarray(scores, dtype=np.float32)

    def read(self, request):
        """Texts or images (the other is None), ``k`` and ``rerank`` of a request.

        Raises:
            QueryError: If one of them is not as the contract says.
        """
        text = pb_utils.get_input_tensor_by_name(request, contract.ENDPOINT_TEXT)
        image = pb_utils.get_input_tensor_by_name(request, contract.ENDPOINT_IMAGE)
        if (text is None) == (image is None):
            have = "neither" if text is None else "both"
            raise QueryError(f"give exactly one of 'text' and 'image'; this request has {have}")
        k = int(constant(request, contract.ENDPOINT_K, contract.DEFAULT_K))
        if not 1 <= k <= self.settings.max_k:
            raise QueryError(f"'k' is {k}, expected 1 to {self.settings.max_k}")
        rerank = bool(constant(request, contract.ENDPOINT_RERANK, contract.DEFAULT_RERANK))
        if text is not None:
            return [self.text(value) for value in text.as_numpy().reshape(-1)], None, k, rerank
        return None, [self.pixels(value) for value in image.as_numpy().reshape(-1)], k, rerank

    def text(self, value):
        """One text of a request."""
        if len(value) > contract.MAX_TEXT_BYTES:
            raise QueryError(f"'text' has {len(value)} bytes, expected at most {contract.MAX_TEXT_BYTES}")
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise QueryError(f"'text' is not UTF-8 ({error})") from error
        if not clean(text):
            raise QueryError("'text' is empty, or holds nothing but punctuation")
        return text

    def pixels(self, value):
        """One image of a request, as the vision graph takes it."""
        if len(value) > self.settings.max_image_bytes:
            raise QueryError(f"'image' has {len(value)} bytes, expected at most {self.settings.max_image_bytes}")
        picture = decode(value, max_pixels=self.settings.max_image_pixels, name="'image'")
        return to_pixels(picture, self.settings.image_size)

    async def encode_texts(self, texts):
        """The fusion graph's text inputs for some texts, and their features."""
        limit, step = self.settings.max_tokens, contract.LENGTH_STEP
        ids, mask = self.encoder.encode_batch(texts, max_tokens=limit, max_words=self.settings.max_words)
        length = ids.shape[1]
        extra = max(min(-(-length // step) * step, limit) - length, 0)
        ids = np.pad(ids, ((0, 0), (0, extra)), constant_values=self.encoder.pad)
        mask = np.pad(mask, ((0, 0), (0, extra)))
        feeds = {contract.INPUT_IDS: ids, contract.ATTENTION_MASK: mask}
        embeds, features = await self.infer(contract.TEXT, feeds, [contract.TEXT_EMBEDS, contract.TEXT_FEAT])
        return {contract.TEXT_EMBEDS: embeds, contract.ATTENTION_MASK: mask}, features

    async def encode_images(self, pixels):
        """The fusion graph's image input for some images, and their features."""
        feeds = {contract.PIXEL_VALUES: np.stack(pixels)}
        embeds, features = await self.infer(contract.VISION, feeds, [contract.IMAGE_EMBEDS, contract.IMAGE_FEAT])
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

    async def infer(self, graph, feeds, outputs):
        """Call a graph of this version; the answers are in the order of ``outputs``.

        Raises:
            GraphError: If it fails.
        """
        name = contract.model_name(self.settings.task, graph)
        call = pb_utils.InferenceRequest(
            model_name=name,
            model_version=self.version,
            requested_output_names=outputs,
            inputs=[pb_utils.Tensor(key, np.ascontiguousarray(array)) for key, array in feeds.items()],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = await call.async_exec()
        if response.has_error():
            raise GraphError(f"{name}: {response.error().message()}")
        return [pb_utils.get_output_tensor_by_name(response, output).as_numpy() for output in outputs]
