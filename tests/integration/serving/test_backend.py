"""The ONNX Runtime backend in Python, in a real server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from albef.serving.server import TritonServer
from tests.errors import refuses

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def value(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, list(shape))


def add(folder, name, nodes, inputs, outputs, config=None, constants=()):
    """Add a model to the repository, with or without a configuration."""
    graph = helper.make_graph(nodes, name, inputs, outputs, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    (folder / name / "1").mkdir(parents=True)
    onnx.save(model, folder / name / "1" / "model.onnx")
    if config is not None:
        (folder / name / "config.pbtxt").write_text(f'platform: "onnxruntime_onnx"\nbackend: "onnxruntime"\n{config}')


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


@pytest.fixture(scope="module")
def server(runtime, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    table = helper.make_tensor("table", FLOAT, [4, 2], range(8))
    for name in ("add", "victim", "narrow"):
        add(
            folder,
            name,
            [node("Add", "x y", "sum"), node("Mul", "x y", "product")],
            [value("x", FLOAT, "b", "l"), value("y", FLOAT, "b", "l")],
            [value("sum", FLOAT, "b", "l"), value("product", FLOAT, "b", "l")],
            'max_batch_size: 8\ninput [{name: "x" data_type: TYPE_FP32 dims: -1},'
            '{name: "y" data_type: TYPE_FP32 dims: -1}]\n'
            'output [{name: "sum" data_type: TYPE_FP32 dims: -1}, {name: "product" data_type: TYPE_FP32 dims: -1}]\n'
            "dynamic_batching { max_queue_delay_microseconds: 20000 }\n"
            'parameters { key: "intra_op_thread_count" value { string_value: "1" } }',
        )
    # An index out of range is an error of the graph, at run time.
    add(
        folder,
        "look_up",
        [node("Gather", "table ids", "rows")],
        [value("ids", INT64, "b", "l")],
        [value("rows", FLOAT, "b", "l", 2)],
        'max_batch_size: 8\ninput {name: "ids" data_type: TYPE_INT64 dims: -1}\n'
        'output {name: "rows" data_type: TYPE_FP32 dims: [-1, 2]}\n'
        "dynamic_batching { max_queue_delay_microseconds: 100000 }",
        [table],
    )
    # A server that failed to load a model waits for its exit timeout.
    with TritonServer(folder, runtime=runtime, stop_timeout=7) as running:
        shape = [value("x", FLOAT, 2, 3)], [value("y", FLOAT, 2, 3)]
        add(folder, "fixed", [node("Neg", "x", "y")], *shape)
        yield running


@pytest.fixture
def client(server):
    with InferenceServerClient(server.grpc_url) as connected:
        yield connected


def ask(client, model, **arrays):
    """Return the outputs of a model by name."""
    types = {"f": "FP32", "i": "INT64"}
    inputs = []
    for name, array in arrays.items():
        inputs.append(InferInput(name, array.shape, types[array.dtype.kind]))
        inputs[-1].set_data_from_numpy(array)
    result = client.infer(model, inputs, client_timeout=30)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def test_requests_of_different_lengths(client):
    rng = np.random.default_rng(0)
    pairs = [rng.standard_normal((2, rows, length)).astype(np.float32) for rows in (1, 3) for length in (1, 4, 9)] * 5
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda pair: ask(client, "add", x=pair[0], y=pair[1]), pairs))
    for (x, y), answer in zip(pairs, answers, strict=True):
        np.testing.assert_array_equal(answer["sum"], x + y)
        np.testing.assert_array_equal(answer["product"], x * y)


def test_only_requested_outputs_come(client):
    from tritonclient.grpc import InferRequestedOutput

    inputs = [InferInput(name, [1, 2], "FP32") for name in "xy"]
    for each in inputs:
        each.set_data_from_numpy(np.ones((1, 2), np.float32))
    result = client.infer("add", inputs, outputs=[InferRequestedOutput("product")])
    assert [output.name for output in result.get_response().outputs] == ["product"]


def test_one_bad_request_of_a_batch_fails_alone(client):
    queries = [np.array([[n % 4, 1]]) if n % 4 else np.array([[99, 1]]) for n in range(24)]

    def look_up(ids):
        try:
            return ask(client, "look_up", ids=ids)["rows"]
        except InferenceServerException as error:
            return error

    before = client.get_inference_statistics("look_up").model_stats[0].execution_count
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(look_up, queries))
    for number, (ids, answer) in enumerate(zip(queries, answers, strict=True)):
        if number % 4:
            np.testing.assert_array_equal(answer[0, :, 0], ids[0] * 2)
        else:
            assert isinstance(answer, InferenceServerException)
            assert answer.status() == "StatusCode.INTERNAL"
            assert "out of data bounds" in answer.message()
    assert client.get_inference_statistics("look_up").model_stats[0].execution_count - before < 24


def tensors(**dims):
    return [{"name": name, "data_type": kind, "dims": size} for name, (kind, size) in dims.items()]


X, Y = {"x": ("TYPE_FP32", [-1])}, {"y": ("TYPE_FP32", [-1])}
SUM = tensors(sum=("TYPE_FP32", [-1]))


@pytest.mark.parametrize(
    ("model", "change", "names"),
    [
        ("victim", {"output": tensors(sum=("TYPE_FP32", [4]))}, ["'sum'", "[-1, -1]", "[-1, 4]"]),
        ("victim", {"output": tensors(sum=("TYPE_FP32", [-1, 1]))}, ["'sum'", "[-1, -1]", "[-1, -1, 1]"]),
        ("victim", {"output": tensors(total=("TYPE_FP32", [-1]))}, ["'total'"]),
        ("victim", {"input": tensors(x=("TYPE_FP32", [-1]), y=("TYPE_INT64", [-1]))}, ["'y'", "TYPE_INT64"]),
        ("victim", {"input": tensors(x=("TYPE_FP32", [-1]))}, ["['y']"]),
        ("victim", {"input": tensors(**X, **Y, z=("TYPE_FP32", [-1]))}, ["'z'"]),
        (
            "victim",
            {"parameters": {"intra_op_thread_count": {"string_value": "many"}}},
            ["intra_op_thread_count", "'many'"],
        ),
        ("victim", {"max_batch_size": 0}, ["max_batch_size", 1]),
        ("fixed", {"input": tensors(**X), "output": tensors(**Y)}, ["-1"]),
    ],
)
def test_configurations_that_do_not_fit_are_refused(client, model, change, names):
    config = {"platform": "onnxruntime_onnx", "backend": "onnxruntime", "max_batch_size": 8}
    config |= {"input": tensors(**X, **Y), "output": SUM}
    # The model stays unloaded: nothing else asks it.
    with refuses(InferenceServerException, repr(model), *names):
        client.load_model(model, config=json.dumps(config | change))


def test_an_input_may_be_narrower_than_the_graph(client):
    config = {
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 8,
        "input": tensors(x=("TYPE_FP32", [2]), y=("TYPE_FP32", [2])),
        "output": SUM,
    }
    client.load_model("narrow", config=json.dumps(config))
    ones = np.ones((1, 2), np.float32)
    assert ask(client, "narrow", x=ones, y=ones) == {"sum": pytest.approx(2 * ones)}
    with refuses(InferenceServerException, "'narrow'", "[1,3]"):
        ask(client, "narrow", x=np.ones((1, 3), np.float32), y=np.ones((1, 3), np.float32))
