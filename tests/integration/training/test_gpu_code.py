"""Code for GPUs, as far as a CPU can check it."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from albef.data.lists import Lists
from albef.data.loader import TrainLoader
from albef.data.tokenizer import Encoder
from albef.losses.mlm import IGNORE
from albef.tasks.base import TaskData, task_class
from albef.tasks.pretrain import train as pretrain
from albef.tracking.tracker import Tracker
from albef.training.compiled import compile_regions
from albef.training.inputs import padded
from albef.training.loop import Loop
from tests.worlds import color_world, tiny_config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TaskData:
    world = color_world(tmp_path_factory.mktemp("gpu") / "world", images=16)
    return TaskData(Lists(world / "lists", world), Encoder.from_file(world / "tokenizer" / "tokenizer.json"))


def _step(data: TaskData, compiled: bool, dtype: torch.dtype) -> dict[str, float]:
    torch.manual_seed(0)
    config = tiny_config()
    text = dataclasses.replace(config.model.text, dropout=0.0)  # which the two draw in different shapes
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, text=text))
    task = task_class("pretrain")(config, data.encoder).train()
    if compiled:
        compile_regions(task.model, task.fixed_shapes, backend="eager")
    batch = next(TrainLoader(task.dataset(data), data.encoder, task.train_config(task.config)).batches(0))
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses = task(batch, torch.tensor(0.4))
    losses["loss"] = torch.stack(list(losses.values())).sum()
    losses["loss"].backward()
    gradient = task.model.student.vision.vit.blocks[0].attn.qkv.weight.grad
    return {name: value.item() for name, value in losses.items()} | {"gradient": gradient.norm().item()}


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 3e-3)],  # of bf16, a unit is 4e-3: keys and values are summed elsewhere
)
def test_regions_compile_without_a_break(data: TaskData, dtype: torch.dtype, tolerance: float) -> None:
    compiled, plain = (_step(data, compiled, dtype) for compiled in (True, False))
    assert compiled == pytest.approx(plain, rel=tolerance)


def test_validation_compiles_nothing(data: TaskData, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = task_class("retrieval")(tiny_config(epochs=1), data.encoder)
    loop = Loop(
        task, data, tmp_path / "scratch", tmp_path, Tracker("none", "retrieval", {}, {}, tmp_path), torch.device("cpu")
    )
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Any:
        compiled.append(graph)
        return graph.forward

    compile_regions(task.model, task.fixed_shapes, backend=backend)
    loop.task.train()
    batch = next(loop.loader.batches(0))
    loop.train_step([batch])
    after_a_step = len(compiled)
    assert after_a_step > 0
    loop._validate(0)
    assert loop.progress.validation[0]["r_mean"] >= 0
    assert len(compiled) == after_a_step


def test_a_fixed_number_of_masked_words_changes_nothing(data: TaskData, monkeypatch: pytest.MonkeyPatch) -> None:
    """On GPUs, shapes do not depend on how many words are masked, and texts are padded."""
    task = task_class("pretrain")(tiny_config(), data.encoder).eval()
    loader = TrainLoader(task.dataset(data), data.encoder, task.train_config(task.config)).batches(0)
    batch = next(iter(loader))
    places = pretrain.masked_places
    losses = []
    for limit in (None, 64):
        longer = padded(batch, data.encoder.pad, None if limit is None else batch["input_ids"].shape[1] + 3)
        labels = torch.full_like(longer["input_ids"], IGNORE)
        labels[:, 1:3] = longer["input_ids"][:, 1:3]
        monkeypatch.setattr(pretrain, "masked_places", lambda labels, _, limit=limit: places(labels, limit))
        shifted = torch.arange(len(labels)).roll(1)
        with torch.no_grad():
            before = copy.deepcopy(task.state_dict())
            losses.append(task(longer, 0.4, negatives=(shifted, shifted), masked=(longer["input_ids"], labels)))
            task.load_state_dict(before)
    for name, value in losses[0].items():
        torch.testing.assert_close(value, losses[1][name], rtol=1e-5, atol=1e-6)


def _signature(kernel: Any, constants: dict[str, Any]) -> dict[str, str]:
    types = {"lse": "*fp32", "delta": "*fp32", "rows": "*i64", "order": "*i64", "offsets": "*i64", "seed": "*i64"}
    types |= {"mask": "*i1", "scale": "fp32", "score_scale": "fp32", "rescale": "fp32"}
    tensors = ("q", "k", "v", "out", "grad", "dq", "dk", "dv")
    return {
        name: "constexpr" if name in constants else "*bf16" if name in tensors else types.get(name, "i32")
        for name in kernel.arg_names
    }


@pytest.mark.parametrize(("kind", "capability"), [("image", 80), ("text", 90), ("cross", 90)])
def test_kernels_compile_for_a_gpu(kind: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton compiles without a GPU; its interpreter accepts code that its compiler refuses."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from albef.models import triton_attention, triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    queries, keys = {"image": (257, 257), "text": (30, 30), "cross": (30, 257)}[kind]
    absent = {
        "image": ("rows", "order", "offsets", "mask", "seed"),
        "text": ("rows", "order", "offsets"),
        "cross": ("mask",),
    }
    for name in ("forward", "backward_queries", "backward_keys"):
        kernel, blocks = getattr(triton_kernels, name), triton_attention.tiles(name, queries, keys)
        long, tile = (queries, blocks.queries) if name == "backward_keys" else (keys, blocks.keys)
        constants = {
            "ROWS": kind == "cross", "MASK": kind == "text", "DROPOUT": kind != "image", "D": 64,
            "FIRST": triton_attention.first(long, tile, None if kind != "text" else torch.empty(0)),
            "BLOCK_M": blocks.queries, "BLOCK_N": blocks.keys,
            **dict.fromkeys(name for name in absent[kind] if name in kernel.arg_names),
        }  # fmt: skip
        source = ASTSource(
            fn=kernel,
            signature=_signature(kernel, constants),
            constexprs={(kernel.arg_names.index(key),): value for key, value in constants.items()},
        )
        options = {"num_warps": blocks.warps, "num_stages": blocks.stages}
        binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert binary.asm["cubin"]
        assert binary.metadata.shared < 160 * 1024, "more shared memory than an A100 has"
