from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from albef.serving import pbtxt, protocol
from albef.serving.protocol import GraphSizes, ModelSpec, TensorSpec
from albef.tasks.retrieval import spec as retrieval
from tests import ROOT
from tests.errors import refuses

sizes = st.builds(GraphSizes, *(st.integers(1, 4096) for _ in range(5)))
deployments = st.builds(
    pbtxt.Deployment,
    backend=st.sampled_from(["onnxruntime", "python"]),
    max_batch_size=st.integers(1, 512),
    queue_delay_us=st.integers(0, 10**6),
    instances=st.integers(1, 8),
    threads=st.integers(1, 64),
    versions=st.integers(1, 5),
)


@given(sizes, deployments, st.sampled_from([protocol.VISION, retrieval.TEXT_GRAPH, retrieval.FUSION_GRAPH]))
def test_config_says_what_the_contract_says(tmp_path_factory, size, run, graph):
    spec = retrieval.graphs(size)[graph]
    path = tmp_path_factory.mktemp("config") / "config.pbtxt"
    path.write_text(pbtxt.render(spec, run))
    config = pbtxt.parse(path)
    assert config.name == spec.name
    assert [(t.name, tuple(t.dims)) for t in config.input] == [(t.name, t.dims) for t in spec.inputs]
    assert [(t.name, tuple(t.dims)) for t in config.output] == [(t.name, t.dims) for t in spec.outputs]
    assert config.max_batch_size == run.max_batch_size
    assert config.dynamic_batching.max_queue_delay_microseconds == run.queue_delay_us
    assert [g.count for g in config.instance_group] == [run.instances]
    assert config.version_policy.latest.num_versions == run.versions
    # A path of this machine in it would break the repository elsewhere.
    assert "runtime" not in {field.name for field, _ in config.ListFields()}
    if run.backend == "onnxruntime":
        assert config.platform == "onnxruntime_onnx"
        assert config.parameters["intra_op_thread_count"].string_value == str(run.threads)
        assert set(config.model_warmup[0].inputs) == set(spec.input_names)


def test_endpoint_config():
    text = pbtxt.render(retrieval.ENDPOINT, pbtxt.Deployment("python", 16, 0, 2))
    assert text.count("TYPE_STRING") == 4  # text, image, where, ids
    assert text.count("optional: true") == 9
    assert "KIND_CPU" in text


def test_an_endpoint_has_a_bounded_queue(tmp_path):
    path = tmp_path / "config.pbtxt"
    path.write_text(pbtxt.render(retrieval.ENDPOINT, pbtxt.Deployment("python", 16, 0, 2, max_queue=5)))
    policy = pbtxt.parse(path).dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.allow_timeout_override) == (5, True)


def test_a_graph_has_no_queue_policy(tmp_path):  # with one, requests of another shape wait for half a second
    path = tmp_path / "config.pbtxt"
    for spec in retrieval.graphs(GraphSizes(64, 17, 128, 96, 32)).values():
        path.write_text(pbtxt.render(spec, pbtxt.Deployment("onnxruntime", 16, 0, 1, max_queue=5)))
        config = pbtxt.parse(path)
        assert config.HasField("dynamic_batching")
        assert not config.dynamic_batching.HasField("default_queue_policy")


def test_graphs_chain():
    graphs = retrieval.graphs(GraphSizes(64, 17, 128, 96, 32))
    made = {t.name: t for name in (protocol.VISION, protocol.TEXT) for t in graphs[name].outputs}
    made |= {t.name: t for t in graphs[protocol.TEXT].inputs}
    assert [made[t.name] for t in graphs[retrieval.FUSION_GRAPH].inputs] == list(graphs[retrieval.FUSION_GRAPH].inputs)


def test_unknown_field_is_named(tmp_path):
    path = tmp_path / "config.pbtxt"
    path.write_text('name: "a"\nmax_batchsize: 4\n')
    with refuses(ValueError, "config.pbtxt", "max_batchsize"):
        pbtxt.parse(path)


def test_unknown_type_is_refused():
    with refuses(ValueError, "TYPE_FLOAT"):
        pbtxt.render(ModelSpec("m", (TensorSpec("x", "FLOAT", (1,)),), ()), pbtxt.Deployment("onnxruntime", 1, 0, 1))


@pytest.mark.parametrize("path", sorted((ROOT / "albef" / "serving").glob("*.py")), ids=lambda p: p.stem)
def test_serving_never_imports_torch(path: Path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    assert not [name for name in names if name.split(".")[0] in {"torch", "timm", "transformers"}]


def test_importing_the_client_is_light():
    code = (
        "import sys, albef.serving.client, albef.serving.server;"
        "print([name for name in ('torch', 'grpc', 'tritonclient', 'faiss') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
