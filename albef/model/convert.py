"""Official checkpoint files to ours and back."""

from __future__ import annotations

import logging
from pathlib import Path

from albef.config import Config
from albef.model import checkpoint
from albef.model.albef import ALBEF
from albef.model.official import infer_task, load_official, read_official, to_official

_logger = logging.getLogger(__name__)


def import_official(config: Config, source: Path, out: Path) -> None:
    """Convert a published pretraining or retrieval checkpoint to ``out/model.pth``.

    Sizes come from ``model`` in the parameters; position embeddings are interpolated to its image size.

    Raises:
        CheckpointError: If the file cannot be read weights-only or does not fit the sizes.
    """
    state = read_official(source)
    word = next((v for k, v in state.items() if k.endswith("embeddings.word_embeddings.weight")), None)
    model = ALBEF(config.model, 0 if word is None else word.shape[0], infer_task(state))
    report = load_official(model, state, str(source))
    checkpoint.save(model, out / "model.pth")
    print(f"{out / 'model.pth'}: {len(state)} tensors read")
    for title, names in (("missing", report.missing), ("unexpected", report.unexpected)):
        if names:
            print(f"{title}: {', '.join(names)}")


def export_official(model: Path, out: Path, student_only: bool = False) -> None:
    """Write the model of folder ``model`` to the file ``out`` as ``{"model": state_dict}`` in the official layout.

    Raises:
        CheckpointError: If there is no model file of this library.
    """
    state, meta = checkpoint.read(model / "model.pth")
    official = to_official(state, meta.config.text.layers, meta.task, student_only)
    checkpoint.save_atomic({"model": official}, out)
    print(f"{out}: written")
