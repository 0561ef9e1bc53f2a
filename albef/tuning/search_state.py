"""On-disk state of a search, consistent after a kill at any time.

Ray writes its state in place into a folder of its session, and copies it from there in the background; after a kill
the copy may be partial or outdated. Here each state that Ray has written is copied as a whole, and each validation
metric is recorded at once.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

CHECKPOINTS, RESULTS = "scratch", "out"
"""Subfolders of a trial with its checkpoints and its training results: gigabytes."""
STATES = "experiment_state-*.json"
"""Ray's files with the state of all trials, one per session."""
_FILES = (STATES, "search_gen_state-*.json", "searcher-state-*.pkl", "callback-states-*.pkl")
_STATE = "state-"
_VALIDATIONS = "told.jsonl"


def record_validation(trials_dir: Path, trial: str, epoch: int, value: float) -> None:
    """Append the metric of a validation to the trial's record."""
    path = trials_dir / trial / _VALIDATIONS
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps([epoch, value]))  # the newline first: a truncated line must not spoil this one


def read_validations(trials_dir: Path, trial: str) -> list[tuple[int, float]]:
    """Return epoch and metric of each validation of a trial.

    A trial that was killed before it saved an epoch repeats it; the last value counts.
    """
    values: dict[int, float] = {}
    path = trials_dir / trial / _VALIDATIONS
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            epoch, value = json.loads(line)
        except ValueError:
            continue
        values[epoch] = value
    return sorted(values.items())


def save(staging: Path, trials_dir: Path) -> bool:
    """Save Ray's session state; return False if it has no trial yet."""
    newest = max(staging.glob(STATES), key=lambda path: path.stat().st_mtime_ns)
    if not json.loads(newest.read_text(encoding="utf-8"))["trial_data"]:
        return False
    previous = _states(trials_dir)
    number = int(previous[-1].name.removeprefix(_STATE)) + 1 if previous else 0
    temporary = trials_dir / "state.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name in _FILES:
        for path in staging.glob(name):
            shutil.copyfile(path, temporary / path.name)
    temporary.rename(trials_dir / f"{_STATE}{number}")
    for state in previous:
        shutil.rmtree(state, ignore_errors=True)
    return True


def discard_trial(trials_dir: Path, trial: str) -> None:
    """Delete checkpoints and results of a trial."""
    for name in (CHECKPOINTS, RESULTS):
        shutil.rmtree(trials_dir / trial / name, ignore_errors=True)


def restore(trials_dir: Path, ray_dir: Path) -> bool:
    """Copy the last saved state into Ray's folder of the search.

    Returns:
        False if there is no complete state; Ray's folder does not exist then.
    """
    states = _states(trials_dir)
    if not states or not (ray_dir / "tuner.pkl").is_file():
        shutil.rmtree(ray_dir, ignore_errors=True)
        for state in states:
            shutil.rmtree(state)
        return False
    for name in _FILES:
        for path in ray_dir.glob(name):
            path.unlink()
    for path in states[-1].iterdir():
        shutil.copyfile(path, ray_dir / path.name)
    return True


def remove(trials_dir: Path, ray_dir: Path) -> None:
    """Delete all files of a search; an interrupted deletion is not resumable."""
    (ray_dir / "tuner.pkl").unlink(missing_ok=True)
    shutil.rmtree(ray_dir, ignore_errors=True)
    shutil.rmtree(trials_dir, ignore_errors=True)


def _states(trials_dir: Path) -> list[Path]:
    return sorted(trials_dir.glob(f"{_STATE}*"), key=lambda path: int(path.name.removeprefix(_STATE)))
