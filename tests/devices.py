"""Device of the tests that need the training core only: the CPU, or that of ``ALBEF_TEST_DEVICE``."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

DEVICE = torch.device(os.environ.get("ALBEF_TEST_DEVICE", "cpu"))
needs_gpu = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU: ALBEF_TEST_DEVICE=cuda")


def on_device(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(DEVICE) for name, value in tensors.items()}
