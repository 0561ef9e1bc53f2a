"""TensorRT for graphs in NVIDIA's container: parameters of ONNX Runtime's execution provider."""

from __future__ import annotations

from albef.config import TensorRtConfig
from albef.serving.protocol import ANY, ModelSpec


def parameters(config: TensorRtConfig, spec: ModelSpec, rows: int, length: int) -> dict[str, str]:
    """Return the parameters of TensorRT for a graph; empty if it stays with CUDA.

    An engine is built for a range of shapes, and once more for a request outside of it, which takes minutes. So the
    range covers all requests. Graphs with several free dimensions would need too much memory for it.

    Args:
        rows: Maximum rows of a batch.
        length: Maximum size of free dimensions, in tokens.
    """
    if any(tensor.dims.count(ANY) > 1 for tensor in spec.inputs):
        return {}

    def profile(batch: int, free: int) -> str:
        shapes = ([batch, *(free if size == ANY else size for size in tensor.dims)] for tensor in spec.inputs)
        pairs = zip(spec.input_names, shapes, strict=True)
        return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in pairs)

    return {
        "precision_mode": config.precision.upper(),
        "max_workspace_size_bytes": str(config.workspace_mib * 2**20),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": f"{config.cache}/{spec.name}",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": config.cache,
        "trt_layer_norm_fp32_fallback": "1",
        "trt_profile_min_shapes": profile(1, 1),
        "trt_profile_opt_shapes": profile(min(rows, config.usual_rows), max(length // 2, 1)),
        "trt_profile_max_shapes": profile(rows, length),
    }
