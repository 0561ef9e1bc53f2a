"""Parity gate of TensorRT: engines must reproduce PyTorch to the tolerance of their precision."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from albef.config import Config, TensorRtConfig
from albef.export import onnx, tensorrt
from albef.serving.protocol import ModelSpec
from albef.serving.session import Provider
from albef.tasks import evaluation

_TENSORRT, _CUDA = "TensorrtExecutionProvider", "CUDAExecutionProvider"


def providers(config: TensorRtConfig, spec: ModelSpec, rows: int, length: int) -> Sequence[Provider]:
    """Return the execution providers of a graph, those that `albef.export.tensorrt` selects in Triton.

    Args:
        rows, length: See `albef.export.tensorrt.parameters`.
    """
    parameters = tensorrt.parameters(config, spec, rows, length)
    if not parameters:
        return [_CUDA]
    options = {name: value for name, value in parameters.items() if name.startswith("trt_profile_")}
    fixed = {
        "trt_fp16_enable": config.precision == "fp16",
        "trt_max_workspace_size": config.workspace_mib * 2**20,
        "trt_layer_norm_fp32_fallback": True,
    }
    return [(_TENSORRT, {**fixed, **options}), _CUDA]


def gate(config: Config, task: str, model: Path, tokenizer: Path, export: Path) -> str:
    """Compare the engines of a task with its model, if this machine can build them.

    Args:
        model: Folder with ``model.pth``.
        tokenizer: Folder with ``tokenizer.json``.
        export: Folder with the graphs of the task.

    Returns:
        Largest differences as text, or the reason for not comparing.

    Raises:
        GraphError: If a graph does not have the signature of the task.
        ParityError: If an output differs by more than the tolerance.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    if _TENSORRT not in (found := onnxruntime.get_available_providers()):
        return f"not compared: ONNX Runtime has no {_TENSORRT} here, only {', '.join(found)}"
    settings = config.serve.tensorrt or TensorRtConfig()
    config = replace(config, serve=replace(config.serve, tensorrt=settings))
    net, encoder = evaluation.load(task, model, tokenizer)
    report = onnx.gate(
        config,
        net,
        task,
        export,
        encoder.tokenizer,
        "serve.tensorrt.tolerance" if settings.precision == "fp16" else "export.tolerance",
        lambda spec: providers(settings, spec, config.serve.max_batch_size, config.model.text.max_positions),
    )
    lines = [f"{graph} {name}: {output['max_abs']:.2g}" for graph in report for name, output in report[graph].items()]
    return "\n".join(lines)
