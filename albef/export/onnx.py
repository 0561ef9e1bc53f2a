"""The export stage: a fine-tuned model as ONNX graphs that passed the parity gate."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from albef.config import Config
from albef.data import tokenizer as tokenizers
from albef.data.files import new_folder
from albef.export import cases as parity_cases
from albef.export import parity
from albef.export.graphs import TASKS, model_hash
from albef.export.session import check_signature, file_hash, open_session
from albef.model import checkpoint
from albef.model.albef import ALBEF
from albef.serving import contract
from albef.serving.contract import ANY, ModelSpec

if TYPE_CHECKING:
    import onnx

IR_VERSION = 10
"""Of the files: current enough for opset 21, old enough for the ONNX Runtime of a year-old Triton container."""
_SIZES = {contract.PIXEL_VALUES: torch.float32, contract.INPUT_IDS: torch.int64, contract.ATTENTION_MASK: torch.int64}


def example(spec: ModelSpec) -> tuple[torch.Tensor, ...]:
    """Inputs to trace with: two rows, five tokens. Sizes of 1 would be taken for constants."""
    inputs = []
    for tensor in spec.inputs:
        shape = [2, *(5 if size == ANY else size for size in tensor.dims)]
        dtype = _SIZES.get(tensor.name, torch.float32)
        inputs.append(torch.zeros(shape) if dtype is torch.float32 else torch.ones(shape, dtype=dtype))
    return tuple(inputs)


def dynamic_shapes(spec: ModelSpec) -> dict[str, dict[int, str]]:
    """Names of the free dimensions of every input: one name, one size."""
    free = {}
    for tensor in spec.inputs:
        axes = {0: "batch"}
        axes.update({axis: "length" for axis, size in enumerate(tensor.dims, start=1) if size == ANY})
        free[tensor.name] = axes
    return free


def to_onnx(module: nn.Module, spec: ModelSpec, opset: int, metadata: dict[str, str]) -> onnx.ModelProto:
    """Export one graph, with the names and free dimensions of the contract."""
    exporters = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in exporters]
    for logger in exporters:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                example(spec),
                dynamo=True,
                opset_version=opset,
                input_names=spec.input_names,
                output_names=spec.output_names,
                dynamic_shapes=dynamic_shapes(spec),
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


def metadata(model: ALBEF, task: str, tokenizer: Path) -> dict[str, str]:
    """What every graph says of where it comes from."""
    return {
        contract.HASH_KEY: model_hash(model),
        contract.TOKENIZER_KEY: file_hash(tokenizer / "tokenizer.json"),
        contract.TEMPERATURE_KEY: repr(model.temperature.item()),
        contract.TASK_KEY: task,
    }


def gate(
    model: ALBEF, task: str, folder: Path, tokenizer: Any, samples: int, tolerance: float
) -> dict[str, dict[str, Any]]:
    """Compare the graphs in ``folder`` with the model; fused inputs come from the encoders, as in serving.

    Raises:
        GraphError: If a graph has another signature than the contract says.
        ParityError: If a graph differs by more than ``tolerance``.
    """
    inputs = parity_cases.build(model, tokenizer, samples)
    report = {}
    for name, (module, spec) in TASKS[task](model).items():
        session = open_session(folder / f"{name}.onnx")
        check_signature(session, spec)
        found = parity.compare(session, module, spec, inputs)
        parity.check(spec.name, found, tolerance)
        report[name] = {output: asdict(result) for output, result in found.items()}
        for case in inputs:  # later graphs take what ONNX Runtime made of the earlier ones
            feeds = {tensor: case[tensor] for tensor in spec.input_names}
            case.update(zip(spec.output_names, session.run(spec.output_names, feeds), strict=True))
    return report


def run(config: Config, task: str, model: Path, tokenizer: Path, out: Path) -> None:
    """Export ``task``: one ``<graph>.onnx`` per graph and ``parity.json``.

    Args:
        model: Folder with ``model.pth``.
        tokenizer: Folder with ``tokenizer.json``.

    Raises:
        ValueError: If the task has no export, or the tokenizer is not the model's.
        ParityError: If a graph answers differently from the model; nothing is written then.
    """
    import onnx

    if task not in TASKS:
        raise ValueError(f"no export for task {task!r}; known are {', '.join(TASKS)}")
    net, _ = checkpoint.load(model / "model.pth")
    words = tokenizers.load(tokenizer)
    if words.get_vocab_size() != net.vocab_size:
        raise ValueError(
            f"{tokenizer / 'tokenizer.json'}: {words.get_vocab_size()} tokens, "
            f"but {model / 'model.pth'} was trained with {net.vocab_size}"
        )
    described = metadata(net, task, tokenizer)
    with new_folder(out) as folder:
        for name, (module, spec) in TASKS[task](net).items():
            proto = to_onnx(module, spec, config.export.opset, described)
            onnx.checker.check_model(proto)
            onnx.save(proto, folder / f"{name}.onnx")
        report = gate(net, task, folder, words, config.export.parity_samples, config.export.tolerance)
        summary = {
            "tolerance": config.export.tolerance,
            "max_abs": max(r["max_abs"] for outputs in report.values() for r in outputs.values()),
            "max_rel": max(r["max_rel"] for outputs in report.values() for r in outputs.values()),
            "graphs": report,
        }
        (folder / "parity.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
