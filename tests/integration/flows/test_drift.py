"""The drift flow: artifacts and failures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from albef.data.tokenizer import Encoder
from albef.drift import reference
from albef.serving.sample import image_stats
from flows import _dvc
from flows.drift import DriftError, drift
from tests import ROOT
from tests.errors import refuses
from tests.integration.drift.test_drift import sampler
from tests.integration.flows.test_release import artifact
from tests.served import served

pytestmark = [pytest.mark.usefixtures("prefect_harness")]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, root = served(), tmp_path_factory.mktemp("checkout")
    shutil.copyfile(ROOT / "tests/presets/tiny.yaml", root / "params.yaml")
    words = model.folder / "tokenizer" / "tokenizer.json"
    reference.run(200, root / "artifacts/reference.json", model.folder / "lists", model.folder, words)
    return root


def requests(folder: Path, text: str) -> None:
    """Write sampled requests for the images of the training list."""
    model = served()
    encoder = Encoder.from_file(model.folder / "tokenizer" / "tokenizer.json")
    to, _ = sampler(folder)
    for row in json.loads((model.folder / "lists" / "vqa_train.json").read_text()):
        draft = to.draft()
        assert draft is not None
        path = model.folder / row["image"]
        draft.add_image(image_stats(Image.open(path).convert("RGB"), path.stat().st_size))
        draft.set_image_rows([0])
        draft.set_texts([text or row["question"]], encoder)
        to.write(draft, 1, {"probabilities": np.array([[0.5]])})


def test_drift_fails_the_run_and_is_shown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dvc, "ROOT", checkout)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    requests(checkout / "scratch/requests", "")
    assert drift() == "as the reference"
    assert "words_mean" in artifact("drift")
    assert "scratch/drift/docs/index.html" in artifact("drift-docs")

    requests(checkout / "other", "red " * 40)
    with refuses(DriftError, "words_mean", 40):
        drift(sample="other")
    rows = json.loads(artifact("drift"))
    assert not rows[0]["success"]  # what failed comes first

    with refuses(_dvc.StageError, "nowhere"):
        drift(sample="nowhere")
