"""The export stage: a fine-tuned model as ONNX graphs that passed the parity gate."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from albef.config import Config
from albef.data import tokenizer as tokenizers
from albef.data.files import new_folder
from albef.export import parity
from albef.export import parity_inputs as parity_cases
from albef.export.graphs import graphs_of, model_hash
from albef.models.albef import ALBEF
from albef.serving import protocol
from albef.serving.protocol import ANY, ModelSpec, TensorSpec
from albef.serving.session import check_signature, file_hash, open_session
from albef.tasks import registry
from albef.weights import checkpoint

if TYPE_CHECKING:
    import onnx

IR_VERSION = 10
"""Of the files: current enough for opset 21, old enough for the ONNX Runtime of a year-old Triton container."""
_DTYPES = {"FP32": torch.float32, "INT64": torch.int64}
_TRACED = {"batch": 2, "length": 5, "answers": 3, "answer_length": 4}
"""Sizes to trace with: all different, and none 1, which would be taken for a constant."""


def free_sizes(tensor: TensorSpec) -> dict[int, str]:
    """Names of the free dimensions of a tensor by axis: one name, one size in all of a graph."""
    names = iter(tensor.free)
    return {0: "batch", **{axis: next(names) for axis, size in enumerate(tensor.dims, start=1) if size == ANY}}


def example(spec: ModelSpec) -> tuple[torch.Tensor, ...]:
    """Inputs to trace with; ids and masks are 1."""
    inputs = []
    for tensor in spec.inputs:
        free = free_sizes(tensor)
        shape = [_TRACED[free[axis]] if axis in free else size for axis, size in enumerate((ANY, *tensor.dims))]
        fill = torch.ones if tensor.dtype == "INT64" else torch.zeros
        inputs.append(fill(shape, dtype=_DTYPES[tensor.dtype]))
    return tuple(inputs)


def to_onnx(module: nn.Module, spec: ModelSpec, opset: int, metadata: dict[str, str]) -> onnx.ModelProto:
    """Export one graph, with the names and free dimensions of the contract."""
    exporters = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in exporters]
    for logger in exporters:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            inputs = example(spec)
            if getattr(module, "differentiates", False):
                module = differentiated(module, inputs)
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=opset,
                input_names=spec.input_names,
                output_names=spec.output_names,
                dynamic_shapes=tuple(free_sizes(tensor) for tensor in spec.inputs),
                external_data=False,
                verbose=False,
            )
    finally:
        for logger, level in zip(exporters, levels, strict=True):
            logger.setLevel(level)
    if program is None:  # pragma: no cover - the old exporter's return type
        raise RuntimeError(f"{spec.name}: the exporter returned nothing")
    proto = program.model_proto
    proto.ir_version = min(proto.ir_version, IR_VERSION)
    proto.graph.name = spec.name
    proto.producer_name = "albef"
    _forget_sources(proto)
    for key, value in sorted(metadata.items()):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    return proto


def _forget_sources(proto: onnx.ModelProto) -> None:
    """Drop the exporter's stack traces: they name files of this machine, and no runtime reads them."""
    for graph in (proto.graph, *proto.functions):
        for part in (graph, *graph.node, *graph.value_info):
            del part.metadata_props[:]
            part.doc_string = ""


def differentiated(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> nn.Module:
    """Return the same computation with its gradients written out as operators.

    Tracing runs the backward pass through the operators that it is made of, so that the result can be exported.

    Args:
        inputs: To trace with; every size of theirs stays free.
    """
    from torch._decomp import core_aten_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # Attention as products and a softmax: the fused operators' backward has no counterpart in ONNX.
    with sdpa_kernel(SDPBackend.MATH):
        return make_fx(
            module,
            decomposition_table=cast(Any, core_aten_decompositions()),
            tracing_mode="symbolic",
            _allow_non_fake_inputs=True,
        )(*inputs)


def metadata(model: ALBEF, task: str, tokenizer: Path) -> dict[str, str]:
    """What every graph says of where it comes from; the temperature is of models with ITC."""
    described = {
        protocol.HASH_KEY: model_hash(model),
        protocol.TOKENIZER_KEY: file_hash(tokenizer / "tokenizer.json"),
        protocol.TASK_KEY: task,
    }
    if model.architecture.align:
        described[protocol.TEMPERATURE_KEY] = repr(model.temperature.item())
    return described


def gate(config: Config, model: ALBEF, task: str, folder: Path, tokenizer: Any) -> dict[str, dict[str, Any]]:
    """Compare the graphs in ``folder`` with the model; fused inputs come from the encoders, as in serving.

    Raises:
        GraphError: If a graph has another signature than the contract says.
        ParityError: If a graph differs by more than ``export.tolerance``.
    """
    inputs = parity_cases.build(model, tokenizer, config.export.parity_samples)
    report = {}
    for name, (module, spec) in graphs_of(task, model, config).items():
        session = open_session(folder / f"{name}.onnx")
        check_signature(session, spec)
        found = parity.compare(session, module, spec, inputs)
        parity.check(spec.name, found, config.export.tolerance)
        report[name] = {output: asdict(result) for output, result in found.items()}
        for case in inputs:  # later graphs take what ONNX Runtime made of the earlier ones
            feeds = {tensor: case[tensor] for tensor in spec.input_names}
            case.update(zip(spec.output_names, session.run(spec.output_names, feeds), strict=True))
            if protocol.IMAGE_EMBEDS in spec.output_names:
                case[protocol.SECOND_IMAGE_EMBEDS] = parity_cases.second_images(case[protocol.IMAGE_EMBEDS])
    return report


def run(config: Config, task: str, model: Path, tokenizer: Path, out: Path) -> None:
    """Export ``task``: one ``<graph>.onnx`` per graph and ``parity.json``.

    Args:
        model: Folder with ``model.pth``.
        tokenizer: Folder with ``tokenizer.json``.

    Raises:
        ValueError: If the task has no export, the model is one for other tasks, or the tokenizer is not the model's.
        ParityError: If a graph answers differently from the model; nothing is written then.
    """
    import onnx

    registry.graphs(task)  # fails for a task that is not exported
    net, meta = checkpoint.load(model / "model.pth")
    if meta.task not in registry.models_for(task):
        raise ValueError(
            f"{model / 'model.pth'}: a model for {meta.task!r}, "
            f"expected one for {' or '.join(registry.models_for(task))} to export {task!r}"
        )
    words = tokenizers.load(tokenizer)
    if words.get_vocab_size() != net.vocab_size:
        raise ValueError(
            f"{tokenizer / 'tokenizer.json'}: {words.get_vocab_size()} tokens, "
            f"but {model / 'model.pth'} was trained with {net.vocab_size}"
        )
    described = metadata(net, task, tokenizer)
    with new_folder(out) as folder:
        for name, (module, spec) in graphs_of(task, net, config).items():
            proto = to_onnx(module, spec, config.export.opset, described)
            onnx.checker.check_model(proto)
            onnx.save(proto, folder / f"{name}.onnx")
        report = gate(config, net, task, folder, words)
        summary = {
            "tolerance": config.export.tolerance,
            "max_abs": max(r["max_abs"] for outputs in report.values() for r in outputs.values()),
            "max_rel": max(r["max_rel"] for outputs in report.values() for r in outputs.values()),
            "graphs": report,
        }
        (folder / "parity.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
