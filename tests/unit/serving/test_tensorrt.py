from __future__ import annotations

from pathlib import Path

import pytest

from albef.config import TensorRtConfig
from albef.export import tensorrt
from albef.serving import pbtxt, protocol
from albef.serving.protocol import ANY, GraphSizes
from albef.tasks import registry

SIZES = GraphSizes(256, 257, 768, 768, 256, 30522)
SPECS = {(task, name): spec for task in registry.served_tasks() for name, spec in registry.graphs(task, SIZES).items()}


def _shapes(profile: str) -> dict[str, list[int]]:
    pairs = (item.split(":") for item in profile.split(","))
    return {name: [int(size) for size in shape.split("x")] for name, shape in pairs}


@pytest.mark.parametrize(("task", "name"), SPECS)
def test_profiles_cover_all_requests(task: str, name: str, tmp_path: Path) -> None:
    spec = SPECS[task, name]
    found = tensorrt.parameters(TensorRtConfig(), spec, 64, 30)
    if any(tensor.dims.count(ANY) > 1 for tensor in spec.inputs):
        assert found == {}
        return
    least, usual, most = (_shapes(found[f"trt_profile_{kind}_shapes"]) for kind in ("min", "opt", "max"))
    assert list(least) == list(usual) == list(most) == spec.input_names
    for tensor in spec.inputs:
        sizes = zip((ANY, *tensor.dims), least[tensor.name], usual[tensor.name], most[tensor.name], strict=True)
        for size, low, middle, high in sizes:
            assert low <= middle <= high
            assert size in (ANY, low)
            assert size == ANY or low == high
    path = tmp_path / "config.pbtxt"
    path.write_text(pbtxt.render(spec, pbtxt.Deployment("onnxruntime", 64, 0, 2, tensorrt=found)))
    (accelerator,) = pbtxt.parse(path).optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert dict(accelerator.parameters) == found


def test_only_graphs_with_one_free_size_are_built() -> None:
    built = {key for key, spec in SPECS.items() if tensorrt.parameters(TensorRtConfig(), spec, 64, 30)}
    assert ("retrieval", protocol.VISION) in built
    assert built < set(SPECS)
