"""Export stage: a model as ONNX graphs that pass the parity gate."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from albef.config import Config
from albef.data.files import new_folder
from albef.export import parity, parity_inputs
from albef.export.graphs import graphs_of, model_hash
from albef.io import file_hash
from albef.models.albef import ALBEF
from albef.serving import protocol
from albef.serving.protocol import ANY, ModelSpec, TensorSpec
from albef.serving.session import CPU, Provider, check_signature, open_session
from albef.tasks import evaluation, registry

if TYPE_CHECKING:
    import onnx

IR_VERSION = 10
"""IR version of the files: supports opset 21 and loads in the ONNX Runtime of year-old Triton containers."""
_DTYPES = {"FP32": torch.float32, "INT64": torch.int64}
_TRACE_SIZES = {"batch": 2, "length": 5, "answers": 3, "answer_length": 4}
"""Sizes of dynamic dimensions while tracing; distinct, and not 1, which would be specialized to a constant."""


def dynamic_axes(tensor: TensorSpec) -> dict[int, str]:
    """Return the names of a tensor's dynamic dimensions, by axis.

    Equal names have equal sizes within a graph.
    """
    names = iter(tensor.free)
    return {0: "batch", **{axis: next(names) for axis, size in enumerate(tensor.dims, start=1) if size == ANY}}


def example_inputs(spec: ModelSpec) -> tuple[torch.Tensor, ...]:
    """Return the inputs for tracing: ones for ids and masks, otherwise zeros."""
    inputs = []
    for tensor in spec.inputs:
        dynamic = dynamic_axes(tensor)
        shape = [
            _TRACE_SIZES[dynamic[axis]] if axis in dynamic else size for axis, size in enumerate((ANY, *tensor.dims))
        ]
        fill = torch.ones if tensor.dtype == "INT64" else torch.zeros
        inputs.append(fill(shape, dtype=_DTYPES[tensor.dtype]))
    return tuple(inputs)


def to_onnx(module: nn.Module, spec: ModelSpec, opset: int, metadata: dict[str, str]) -> onnx.ModelProto:
    """Export a graph with the names and dynamic dimensions of its signature."""
    exporters = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in exporters]
    for logger in exporters:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            inputs = example_inputs(spec)
            if getattr(module, "differentiates", False):
                module = differentiated(module, inputs)
            exported = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=opset,
                input_names=spec.input_names,
                output_names=spec.output_names,
                dynamic_shapes=tuple(dynamic_axes(tensor) for tensor in spec.inputs),
                external_data=False,
                verbose=False,
            )
    finally:
        for logger, level in zip(exporters, levels, strict=True):
            logger.setLevel(level)
    proto = cast(torch.onnx.ONNXProgram, exported).model_proto  # None only with ``dynamo=False``
    proto.ir_version = min(proto.ir_version, IR_VERSION)
    proto.graph.name = spec.name
    proto.producer_name = "albef"
    _strip_stack_traces(proto)
    for key, value in sorted(metadata.items()):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    return proto


def _strip_stack_traces(proto: onnx.ModelProto) -> None:
    """Remove the exporter's stack traces, which contain local paths."""
    for graph in (proto.graph, *proto.functions):
        for part in (graph, *graph.node, *graph.value_info):
            del part.metadata_props[:]
            part.doc_string = ""


def differentiated(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> nn.Module:
    """Return an equivalent module whose backward pass is expanded to operators.

    Only these can be exported.

    Args:
        inputs: Inputs for tracing; all their dimensions stay dynamic.
    """
    from torch._decomp import core_aten_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # Unfused attention, as the backward of fused attention has no ONNX counterpart.
    with sdpa_kernel(SDPBackend.MATH):
        return make_fx(
            module,
            decomposition_table=cast(Any, core_aten_decompositions()),
            tracing_mode="symbolic",
            _allow_non_fake_inputs=True,
        )(*inputs)


def metadata(model: ALBEF, task: str, tokenizer: Path) -> dict[str, str]:
    """Return the ONNX metadata of a model's graphs.

    It includes the temperature if the model has ITC.
    """
    entries = {
        protocol.HASH_KEY: model_hash(model),
        protocol.TOKENIZER_KEY: file_hash(tokenizer / "tokenizer.json"),
        protocol.TASK_KEY: task,
    }
    if model.architecture.align:
        entries[protocol.TEMPERATURE_KEY] = repr(model.temperature.item())
    return entries


def gate(
    config: Config,
    model: ALBEF,
    task: str,
    folder: Path,
    tokenizer: Any,
    tolerance: str = "export.tolerance",
    providers: Callable[[ModelSpec], Sequence[Provider]] = lambda spec: CPU,
) -> dict[str, dict[str, Any]]:
    """Compare the graphs in ``folder`` with the model.

    As in serving, later graphs receive the outputs of earlier ones.

    Args:
        tolerance: Parameter with the largest difference allowed.
        providers: Returns the execution providers that run a graph.

    Returns:
        Parity (`albef.export.parity.Parity`) by graph and output, as dictionaries.

    Raises:
        GraphError: If a graph does not have the signature of its task.
        ParityError: If an output differs by more than ``tolerance``.
    """
    inputs = parity_inputs.build(model, tokenizer, config.export.parity_samples)
    report = {}
    for name, (module, spec) in graphs_of(task, model, config).items():
        session = open_session(folder / f"{name}.onnx", providers=providers(spec))
        check_signature(session, spec)
        results = parity.compare(session, module, spec, inputs)
        parity.check(spec.name, results, operator.attrgetter(tolerance)(config), tolerance)
        report[name] = {output: asdict(result) for output, result in results.items()}
        if protocol.IMAGE_EMBEDS in spec.output_names:
            for case in inputs:
                case[protocol.SECOND_IMAGE_EMBEDS] = parity_inputs.second_images(case[protocol.IMAGE_EMBEDS])
    return report


def run(config: Config, task: str, model: Path, tokenizer: Path, out: Path) -> None:
    """Export ``task`` as one ``<graph>.onnx`` per graph and ``parity.json``.

    Args:
        model: Folder with ``model.pth``.
        tokenizer: Folder with ``tokenizer.json``.

    Raises:
        ValueError: If the task has no export, or the model or the tokenizer does not fit the task.
        ParityError: If the outputs of a graph and the model differ; nothing is written then.
    """
    import onnx

    registry.graphs(task)  # raises if the task has no export
    net, encoder = evaluation.load(task, model, tokenizer)
    entries = metadata(net, task, tokenizer)
    with new_folder(out) as folder:
        for name, (module, spec) in graphs_of(task, net, config).items():
            proto = to_onnx(module, spec, config.export.opset, entries)
            onnx.checker.check_model(proto)
            onnx.save(proto, folder / f"{name}.onnx")
        report = gate(config, net, task, folder, encoder.tokenizer)
        summary = {
            "tolerance": config.export.tolerance,
            "max_abs": max(r["max_abs"] for outputs in report.values() for r in outputs.values()),
            "max_rel": max(r["max_rel"] for outputs in report.values() for r in outputs.values()),
            "graphs": report,
        }
        (folder / "parity.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
