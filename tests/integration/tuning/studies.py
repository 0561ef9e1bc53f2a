"""A study without training, importable in a fraction of a second."""

from __future__ import annotations

from pathlib import Path

from albef.tuning.study import Study
from tests.worlds import tiny_tune

SETTING = {"optim.lr": 1e-3, "optim.warmup_steps": 3, "alpha": 0.4}
SPACE = {
    "optim.lr": ("loguniform", 1e-4, 1e-2),
    "optim.warmup_steps": ("lograndint", 1, 12),
    "alpha": ("uniform", 0.0, 0.8),
}
SETTINGS = tiny_tune(tasks=[], epochs=3)


def opened(folder: Path) -> Study:
    return Study(folder, SPACE, SETTING, SETTINGS, epochs=3)


def search(study: Study, reports: int) -> None:
    """Run trials without a training until all are over, or for a number of reports."""
    while study.num_finished < SETTINGS.trials:
        proposal = study.propose()
        (study.folder / str(proposal["number"])).mkdir(exist_ok=True)
        value = proposal["setting"]["alpha"]
        for epoch in range(1, 4):
            if reports == 0:
                return
            reports -= 1
            if study.report(proposal["number"], epoch, value + epoch / 100):
                break
