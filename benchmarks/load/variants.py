"""Conversions of ONNX graphs to lower precision, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from albef.export.quantize import int8


def int8_ffn(source: Path, target: Path) -> None:
    """Quantize feed-forward layers only.

    Their weights have an aspect ratio of four; the projections of queries, keys and values stay in fp32.
    """
    int8(source, target, lambda shape: len(shape) != 2 or max(shape) != 4 * min(shape))


def int8_blocks(source: Path, target: Path) -> None:
    """Quantize weights and activations to int8 in blocks of 32."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, accuracy_level=4, bits=8)
    quantizer = MatMulNBitsQuantizer(onnx.load(str(source)), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target))


def fp16(source: Path, target: Path) -> None:
    """Convert everything except inputs and outputs to half precision."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(str(source)), keep_io_types=True), str(target))


VARIANTS: dict[str, Callable[[Path, Path], None]] = {
    "int8": int8,
    "int8-ffn": int8_ffn,
    "int8-blocks": int8_blocks,
    "fp16": fp16,
}


def tiled(feeds: dict[str, Any], rows: int) -> dict[str, Any]:
    """Repeat the row of a request ``rows`` times."""
    return {name: np.repeat(array[:1], rows, axis=0) for name, array in feeds.items()}
