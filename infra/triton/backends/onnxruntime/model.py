"""Python-based Triton backend ``onnxruntime``, a replacement for the C++ backend outside containers.

It reads the same ``config.pbtxt`` and ``<version>/model.onnx`` and makes the same checks when it loads a model (C++:
onnxruntime_backend/src/onnxruntime.cc, onnxruntime_utils.cc), so a repository that loads here loads there. It runs on
the CPU only and does not support sequence state, batch inputs and execution accelerators.
"""

import json
import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
DEFAULT_MAX_BATCH_SIZE = 4  # default of the C++ backend for models without a configured batch size


class BadRequestError(ValueError):
    """Invalid request, answered with INVALID_ARGUMENT."""


def model_path(config):
    """Return the path of the graph.

    A graph with external data is in a folder ``model.onnx``.
    """
    path = os.path.join(pb_utils.get_model_dir(), config.get("default_model_filename") or "model.onnx")
    return os.path.join(path, "model.onnx") if os.path.isdir(path) else path


def open_session(config, optimize=True):
    """Open the graph with the options of the configuration."""
    options = ort.SessionOptions()
    parameters = config.get("parameters") or {}

    def number(key):
        text = (parameters.get(key) or {}).get("string_value") or "0"
        try:
            return int(text)
        except ValueError:
            raise ValueError(
                f"parameter {key!r} of model {config.get('name')!r}: expected a number, got {text!r}"
            ) from None

    options.intra_op_num_threads = max(number("intra_op_thread_count"), 0)
    options.inter_op_num_threads = max(number("inter_op_thread_count"), 0)
    if number("execution_mode") == 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    level = int(((config.get("optimization") or {}).get("graph") or {}).get("level") or 0)
    options.graph_optimization_level = LEVELS.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Idle threads must not occupy cores that other models on the machine need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model_path(config), options, providers=["CPUExecutionProvider"])


def graph_dims(info):
    """Return the dimensions of a graph's tensor.

    Free dimensions are -1; a scalar has shape [1], as in configurations.
    """
    return [size if isinstance(size, int) and size >= 0 else -1 for size in info.shape] or [1]


def config_dims(tensor):
    """Return the configured dimensions of a tensor after its optional reshape."""
    shape = (tensor.get("reshape") or {}).get("shape") if tensor.get("reshape") is not None else tensor["dims"]
    return [int(size) for size in shape or []]


def check_tensor(model, info, tensor, batched, exact):
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
    graph, configured = graph_dims(info), config_dims(tensor)
    if batched:
        if not graph or graph[0] != -1:
            raise ValueError(
                f"{where}: to support batching the first dimension must be -1, the model has shape {graph}"
            )
        configured = [-1, *configured]
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
    name, batched = config["name"], int(config.get("max_batch_size") or 0) > 0
    inputs = {info.name: info for info in session.get_inputs()}
    outputs = {info.name: info for info in session.get_outputs()}
    optional = {info.name for info in session.get_overridable_initializers()}
    for tensor in config["input"]:
        if tensor["name"] in optional and tensor.get("optional"):
            continue
        if tensor["name"] not in inputs:
            raise ValueError(f"model '{name}': unexpected input '{tensor['name']}', the model has {sorted(inputs)}")
        check_tensor(name, inputs[tensor["name"]], tensor, batched, exact=False)
    missing = sorted(set(inputs) - {tensor["name"] for tensor in config["input"]})
    if missing:
        raise ValueError(f"model '{name}': the configuration lacks the inputs {missing}")
    for tensor in config["output"]:
        if tensor["name"] not in outputs:
            raise ValueError(f"model '{name}': unexpected output '{tensor['name']}', the model has {sorted(outputs)}")
        check_tensor(name, outputs[tensor["name"]], tensor, batched, exact=True)


def to_graph(tensor):
    """Convert a tensor of a request to an input array.

    Bytes are decoded to strings.

    Raises:
        BadRequestError: If a string is not UTF-8.
    """
    array = tensor.as_numpy()
    if array.dtype != np.object_:
        return array
    try:
        flat = [item.decode("utf-8") if isinstance(item, bytes) else str(item) for item in array.reshape(-1)]
    except UnicodeDecodeError as error:
        raise BadRequestError(f"input '{tensor.name()}': not UTF-8 text ({error})") from error
    return np.array(flat, dtype=np.object_).reshape(array.shape)


def from_graph(array):
    """Convert an output array for a response: contiguous, strings encoded to bytes."""
    if array.dtype.kind in "OU":
        flat = [item if isinstance(item, bytes) else str(item).encode("utf-8") for item in array.reshape(-1)]
        return np.array(flat, dtype=np.object_).reshape(array.shape)
    return np.ascontiguousarray(array)


def failure(error):
    """Return an error response.

    Always a new object: sharing one between responses crashes the server.
    """
    code = pb_utils.TritonError.INVALID_ARG if isinstance(error, BadRequestError) else pb_utils.TritonError.INTERNAL
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))


class TritonPythonModel:
    """Instance of a model."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        """Complete the configuration: batch size, inputs, outputs and dynamic batching."""
        config = auto_complete_model_config.as_dict()
        session = open_session(config, optimize=False)
        infos = [*session.get_inputs(), *session.get_outputs()]
        size = int(config.get("max_batch_size") or 0)
        can_batch = all(graph_dims(info)[:1] == [-1] for info in infos)
        if not can_batch and size:
            raise ValueError(f"model '{config.get('name')}' does not support batching, but max_batch_size is {size}")
        # If tensors are configured, the configuration determines whether they have a batch dimension.
        if can_batch and not size and not config.get("input") and not config.get("output"):
            size = DEFAULT_MAX_BATCH_SIZE
        auto_complete_model_config.set_max_batch_size(size)
        if size > 1 and not config.get("sequence_batching") and not config.get("dynamic_batching"):
            auto_complete_model_config.set_dynamic_batching()
        for key, add, graph in (
            ("input", auto_complete_model_config.add_input, session.get_inputs()),
            ("output", auto_complete_model_config.add_output, session.get_outputs()),
        ):
            if not config.get(key):
                for info in graph:
                    dims = graph_dims(info)[1 if size else 0 :]
                    add({"name": info.name, "data_type": TYPES[info.type], "dims": dims})
        return auto_complete_model_config

    def initialize(self, args):
        """Open the graph and check the configuration against it."""
        config = json.loads(args["model_config"])
        self.session = open_session(config)
        check_config(config, self.session)
        self.batched = int(config.get("max_batch_size") or 0) > 0
        self.inputs = [(tensor["name"], bool(tensor.get("optional"))) for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.reshapes = {t["name"]: config_dims(t) for t in config["input"] if t.get("reshape") is not None}
        self.reshapes.update({info.name: [] for info in self.session.get_inputs() if not info.shape})
        self.output_shapes = {
            t["name"]: list(map(int, t["dims"])) for t in config["output"] if t.get("reshape") is not None
        }
        self.output_shapes.update({info.name: [1] for info in self.session.get_outputs() if not info.shape})

    def feed(self, request):
        """Return the inputs of the graph for one request."""
        feed = {}
        for name, optional in self.inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is None:
                if optional:
                    continue
                raise BadRequestError(f"input '{name}' is missing")
            array = to_graph(tensor)
            if name in self.reshapes:
                array = array.reshape([*array.shape[: 1 if self.batched else 0], *self.reshapes[name]])
            feed[name] = array
        return feed

    def groups(self, feeds):
        """Group request indices into batches.

        Inputs of a batch agree in type and in all but the batch dimension.
        """
        groups = {}
        for index, feed in enumerate(feeds):
            if feed is not None:
                shapes = tuple((name, array.shape[1:], array.dtype.str) for name, array in feed.items())
                groups.setdefault(shapes if self.batched and feed else index, []).append(index)
        return list(groups.values())

    def run(self, feeds, requests):
        """Run requests as one batch and return their responses."""
        names = feeds[0].keys()
        joined = (
            feeds[0] if len(feeds) == 1 else {name: np.concatenate([feed[name] for feed in feeds]) for name in names}
        )
        results = dict(zip(self.outputs, self.session.run(self.outputs, joined), strict=True))
        rows = [len(next(iter(feed.values()))) if self.batched else 0 for feed in feeds]
        for name, array in results.items():
            if self.batched and (array.ndim == 0 or len(array) != sum(rows)):
                raise ValueError(f"output '{name}': expected {sum(rows)} rows, the graph gave shape {array.shape}")
        responses, first = [], 0
        for request, count in zip(requests, rows, strict=True):
            requested, tensors = request.requested_output_names(), []
            for name, array in results.items():
                if name in requested:
                    part = array[first : first + count] if self.batched else array
                    if name in self.output_shapes:
                        part = part.reshape([*part.shape[: 1 if self.batched else 0], *self.output_shapes[name]])
                    tensors.append(pb_utils.Tensor(name, from_graph(part)))
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
