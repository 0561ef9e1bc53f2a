"""Python-based Triton backend ``onnxruntime``, a replacement for the C++ backend outside containers.

It reads the same ``config.pbtxt`` and ``<version>/model.onnx`` and makes the same checks when it loads a model (C++:
onnxruntime_backend/src/onnxruntime.cc, onnxruntime_utils.cc), so a repository that loads here loads there. It runs on
the CPU only and supports what `albef.serving.pbtxt` writes: batches of numeric tensors with complete configurations.
"""

import json
import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
}


class BadRequestError(ValueError):
    """Invalid request, answered with INVALID_ARGUMENT."""


def open_session(config):
    """Open the graph with the threads of the configuration."""
    options = ort.SessionOptions()
    text = config.get("parameters", {}).get("intra_op_thread_count", {}).get("string_value") or "0"
    try:
        options.intra_op_num_threads = max(int(text), 0)
    except ValueError:
        raise ValueError(f"model '{config['name']}': intra_op_thread_count: expected a number, got {text!r}") from None
    # Idle threads must not occupy cores that other models on the machine need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = os.path.join(pb_utils.get_model_dir(), "model.onnx")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check_tensor(model, info, tensor, exact):
    """Check the configuration of a tensor like the C++ backend.

    Args:
        exact: Require the dimensions of the graph, as for outputs; an input may fix free dimensions of the graph.

    Raises:
        ValueError: If type, batch dimension or shape differ.
    """
    where = f"model '{model}', tensor '{tensor['name']}'"
    if TYPES.get(info.type) != tensor["data_type"]:
        raise ValueError(
            f"{where}: the model expects {info.type} but the configuration specifies {tensor['data_type']}"
        )
    graph = [size if isinstance(size, int) and size >= 0 else -1 for size in info.shape]
    if graph[:1] != [-1]:
        raise ValueError(f"{where}: to support batching the first dimension must be -1, the model has shape {graph}")
    configured = [-1, *map(int, tensor["dims"])]
    fits = len(graph) == len(configured) and all(
        have == want or (have == -1 and not exact) for have, want in zip(graph, configured, strict=True)
    )
    if not fits:
        raise ValueError(f"{where}: the model has shape {graph} but the configuration specifies {configured}")


def check_config(config, session):
    """Check all tensors of a configuration against the graph.

    Raises:
        ValueError: If a tensor is missing, unknown or differs from the graph.
    """
    name = config["name"]
    if int(config.get("max_batch_size") or 0) < 1:
        raise ValueError(f"model '{name}': max_batch_size: expected 1 or more; this backend runs batches only")
    inputs = {info.name: info for info in session.get_inputs()}
    outputs = {info.name: info for info in session.get_outputs()}
    for tensor in config["input"]:
        if tensor["name"] not in inputs:
            raise ValueError(f"model '{name}': unexpected input '{tensor['name']}', the model has {sorted(inputs)}")
        check_tensor(name, inputs[tensor["name"]], tensor, exact=False)
    missing = sorted(set(inputs) - {tensor["name"] for tensor in config["input"]})
    if missing:
        raise ValueError(f"model '{name}': the configuration lacks the inputs {missing}")
    for tensor in config["output"]:
        if tensor["name"] not in outputs:
            raise ValueError(f"model '{name}': unexpected output '{tensor['name']}', the model has {sorted(outputs)}")
        check_tensor(name, outputs[tensor["name"]], tensor, exact=True)


def failure(error):
    """Return an error response.

    Always a new object: sharing one between responses crashes the server.
    """
    code = pb_utils.TritonError.INVALID_ARG if isinstance(error, BadRequestError) else pb_utils.TritonError.INTERNAL
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))


class TritonPythonModel:
    """Instance of a model."""

    def initialize(self, args):
        """Open the graph and check the configuration against it."""
        config = json.loads(args["model_config"])
        self.session = open_session(config)
        check_config(config, self.session)
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]

    def feed(self, request):
        """Return the inputs of the graph for one request."""
        feed = {}
        for name in self.inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is None:
                raise BadRequestError(f"input '{name}' is missing")
            feed[name] = tensor.as_numpy()
        return feed

    def groups(self, feeds):
        """Group request indices into batches.

        Inputs of a batch agree in type and in all but the batch dimension.
        """
        groups = {}
        for index, feed in enumerate(feeds):
            if feed is not None:
                shapes = tuple((name, array.shape[1:], array.dtype.str) for name, array in feed.items())
                groups.setdefault(shapes, []).append(index)
        return list(groups.values())

    def run(self, feeds, requests):
        """Run requests as one batch and return their responses."""
        names = feeds[0].keys()
        joined = (
            feeds[0] if len(feeds) == 1 else {name: np.concatenate([feed[name] for feed in feeds]) for name in names}
        )
        results = dict(zip(self.outputs, self.session.run(self.outputs, joined), strict=True))
        rows = [len(next(iter(feed.values()))) for feed in feeds]
        for name, array in results.items():
            if array.ndim == 0 or len(array) != sum(rows):
                raise ValueError(f"output '{name}': expected {sum(rows)} rows, the graph gave shape {array.shape}")
        responses, first = [], 0
        for request, count in zip(requests, rows, strict=True):
            requested = request.requested_output_names()
            tensors = [
                pb_utils.Tensor(name, np.ascontiguousarray(array[first : first + count]))
                for name, array in results.items()
                if name in requested
            ]
            responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
            first += count
        return responses

    def execute(self, requests):
        """Answer requests; a failing one does not fail the others."""
        responses, feeds = [None] * len(requests), []
        for index, request in enumerate(requests):
            try:
                feeds.append(self.feed(request))
            except Exception as error:
                feeds.append(None)
                responses[index] = failure(error)
        queue = self.groups(feeds)
        while queue:
            group = queue.pop()
            try:
                results = self.run([feeds[i] for i in group], [requests[i] for i in group])
            except Exception as error:
                if len(group) > 1:  # run each alone, so that only the failing ones fail
                    queue.extend([i] for i in group)
                    continue
                results = [failure(error)]
            for index, response in zip(group, results, strict=True):
                responses[index] = response
        return responses

    def finalize(self):
        """Release the session."""
        del self.session
