"""The pretraining step and the training images of the official code, from a checkout of it.

Its models import names of old releases of transformers and timm. While they are imported, these are provided here; what
they do is what the step of the old releases did. Its data sets need OpenCV, and import tools that only its evaluations
use.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import timm.layers
import torch
import torch.distributed as dist
import transformers
import transformers.pytorch_utils
import transformers.utils
from torch import Tensor, nn


class _PreTrained(nn.Module):
    """The part of transformers' base class that the step needs."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def from_pretrained(cls, name: str, config: Any) -> _PreTrained:
        return cls(config)  # random weights take as long

    def init_weights(self) -> None:
        self.apply(self._init_weights)
        if hasattr(self, "cls"):
            self.cls.predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight

    def get_head_mask(self, mask: None, layers: int) -> list[None]:
        return [None] * layers

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def invert_attention_mask(self, mask: Tensor) -> Tensor:
        return (1.0 - mask[:, None, None, :].to(self.dtype)) * -10000.0


def _decorator(*args: object, **options: object) -> Callable[[Any], Any]:
    """Stand-in for decorators of docstrings."""
    return lambda function: function


def _old_names() -> list[types.ModuleType]:
    """Return the modules of old releases that the official models import."""
    utils: Any = types.ModuleType("transformers.file_utils")
    utils.ModelOutput = transformers.utils.ModelOutput
    for name in ("code_sample_docstrings", "start_docstrings", "start_docstrings_to_model_forward"):
        setattr(utils, f"add_{name}", _decorator)
    utils.replace_return_docstrings = _decorator
    modeling: Any = types.ModuleType("transformers.modeling_utils")
    modeling.PreTrainedModel = _PreTrained
    modeling.apply_chunking_to_forward = transformers.pytorch_utils.apply_chunking_to_forward
    modeling.find_pruneable_heads_and_indices = modeling.prune_linear_layer = None
    registry: Any = types.ModuleType("timm.models.registry")
    registry.register_model = lambda function: function
    layers: Any = types.ModuleType("timm.models.layers")
    layers.trunc_normal_, layers.DropPath = timm.layers.trunc_normal_, timm.layers.DropPath
    return [utils, modeling, registry, layers]


def _evaluation_tools() -> list[types.ModuleType]:
    """Return the modules of evaluation tools that the official data sets import."""
    vqa: Any = types.ModuleType("vqaTools.vqaEval")
    ref: Any = types.ModuleType("refTools.evaluation.refEvaluation")
    vqa.VQAEval = ref.RefEvaluation = None
    return [vqa, ref, *map(types.ModuleType, ("vqaTools", "refTools", "refTools.evaluation"))]


@contextmanager
def _importable(path: Path, modules: list[types.ModuleType]) -> Iterator[None]:
    """Let the official code be imported from its checkout, and ``modules`` by it."""
    names = {module.__name__: module for module in modules}
    before = {name: sys.modules.get(name) for name in names}
    sys.modules |= names
    sys.path.insert(0, str(path))
    try:
        yield
    finally:
        sys.path.remove(str(path))
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def pretraining_set(path: Path, records: Path, size: int) -> Any:
    """Return the official training set of pretraining.

    Args:
        path: Checkout of the official code.
        records: List of the pairs, with absolute paths of images.
        size: Pixels per side.
    """
    if importlib.util.find_spec("cv2") is None:
        raise SystemExit("--official: the official data sets need OpenCV: pip install opencv-python-headless")
    with _importable(path, _evaluation_tools()):
        module = importlib.import_module("dataset")
    return module.create_dataset("pretrain", {"image_res": size, "train_file": [str(records)]})


def operation(name: str, pixels: np.ndarray) -> np.ndarray:
    """Apply an operation of the official RandAugment, with a magnitude of 7 and a random sign.

    Args:
        pixels: Shape ``(height, width, 3)``; the code was imported by `pretraining_set`.
    """
    module = sys.modules["dataset.randaugment"]
    return np.asarray(module.func_dict[name](pixels, *module.arg_dict[name](7)))


def step_of(path: Path, batch: dict[str, Tensor], precision: str, device: torch.device) -> Callable[[], float]:
    """Return a function that runs a pretraining step and returns its loss.

    Args:
        path: Checkout of the official code.
        batch: Images ``(B, 3, H, H)``, normalized, and texts.
    """
    if not dist.is_initialized():  # the queue gathers from a process group
        store = tempfile.mkdtemp() + "/store"
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{store}", rank=0, world_size=1)
    with _importable(path, _old_names()):
        model_class = importlib.import_module("models.model_pretrain").ALBEF
    spec: Any = importlib.util.spec_from_file_location("official_adamw", path / "optim" / "adamw.py")
    optim = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(optim)
    config = {
        "image_res": batch["image"].shape[-1],
        "bert_config": str(path / "configs" / "config_bert.json"),
        "vision_width": 768,
        "embed_dim": 256,
        "temp": 0.07,
        "mlm_probability": 0.15,
        "queue_size": 65536,
        "momentum": 0.995,
    }
    words = SimpleNamespace(pad_token_id=0, cls_token_id=2, mask_token_id=4)
    model = model_class(None, words, config, init_deit=False).to(device).train()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = [p for name, p in named if p.ndim == 1 or name.endswith((".bias", "pos_embed", "cls_token"))]
    decayed = [p for _, p in named if not any(p is other for other in plain)]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.02}]
    optimizer = optim.AdamW(groups, lr=1e-5)
    text = SimpleNamespace(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            losses = model(batch["image"], text, alpha=0.4)
        loss = torch.stack(list(losses)).sum()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
