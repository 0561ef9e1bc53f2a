"""Parity of half precision on the CPU, which rounds as fp16 does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from albef import cli
from albef.config import Config, TensorRtConfig
from albef.data import tokenizer as tokenizers
from albef.export import engines, onnx
from albef.export.parity import ParityError
from albef.serving.protocol import ANY
from albef.serving.session import GraphError, open_session
from albef.tasks import registry
from albef.weights import checkpoint
from benchmarks.load.variants import VARIANTS
from tests import ROOT
from tests.errors import refuses
from tests.served import Served, random_model

TENSORRT, CUDA = "TensorrtExecutionProvider", "CUDAExecutionProvider"
KEY = "serve.tensorrt.tolerance"


def tensorrt(config: Config, **settings: Any) -> Config:
    return dataclasses.replace(config, serve=dataclasses.replace(config.serve, tensorrt=TensorRtConfig(**settings)))


@pytest.fixture(scope="module")
def halved(model: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fp16")
    for path in (model.exported / "retrieval").glob("*.onnx"):
        VARIANTS["fp16"](path, folder / path.name)
    return folder


def test_half_precision_has_a_tolerance_of_its_own(model: Served, halved: Path) -> None:
    config, words = tensorrt(model.config), tokenizers.load(model.folder / "tokenizer")
    net = checkpoint.load(model.folder / "models" / "retrieval" / "model.pth")[0].eval()
    report = onnx.gate(config, net, "retrieval", halved, words, KEY)
    largest = max(output["max_abs"] for graph in report.values() for output in graph.values())
    assert config.export.tolerance < largest < TensorRtConfig().tolerance
    with refuses(ParityError, "export.tolerance"):
        onnx.gate(config, net, "retrieval", halved, words)
    with refuses(ParityError, KEY, "0.001"):
        onnx.gate(tensorrt(config, tolerance=1e-3), net, "retrieval", halved, words, KEY)
    with refuses(ParityError, KEY):
        onnx.gate(config, random_model(model.folder, config, seed=5), "retrieval", halved, words, KEY)


@pytest.mark.skipif(TENSORRT in onnxruntime.get_available_providers(), reason="TensorRT is installed")
def test_a_machine_without_tensorrt_compares_nothing_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(["parity", "vqa", "--model", "none", "--tokenizer", "none", "--export", "none"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("not compared")
    assert TENSORRT in line


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="CUDA is installed")
def test_a_provider_that_does_not_start_is_not_replaced_by_the_cpu(model: Served) -> None:
    graph = model.exported / "retrieval" / "text.onnx"
    with pytest.warns(UserWarning, match=CUDA), refuses(GraphError, graph, CUDA):
        open_session(graph, providers=[CUDA, "CPUExecutionProvider"])


def test_graphs_run_where_triton_would_run_them() -> None:
    for spec in registry.graphs("vqa").values():
        first, *others = engines.providers(TensorRtConfig(workspace_mib=2), spec, 4, 30)
        if any(tensor.dims.count(ANY) > 1 for tensor in spec.inputs):
            assert (first, others) == (CUDA, [])
            continue
        assert others == [CUDA]
        name, options = first
        assert name == TENSORRT
        assert options.pop("trt_max_workspace_size") == 2 * 2**20
        assert options.pop("trt_fp16_enable") is True
        assert options.pop("trt_layer_norm_fp32_fallback") is True
        assert set(options) == {f"trt_profile_{kind}_shapes" for kind in ("min", "opt", "max")}
