"""What a search has come to, on disk, such that a kill at any moment neither breaks it nor costs more than a moment.

Ray writes its state in place, into a folder of its session, and copies it from there in the background: killed
meanwhile, a part is there, or an old one. Here it is kept whole each time that Ray has written it, and what trials tell
is written down as it comes.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ray.tune import Callback

SECONDS = "1"
"""Between two states, where Ray's environment variable says nothing else."""
_FILES = ("experiment_state-*.json", "search_gen_state-*.json", "searcher-state-*.pkl", "callback-states-*.pkl")
_STATE = "state-"
_TOLD = "told.jsonl"


class Memory(Callback):
    """Keeps validations and states, and removes what nothing will go on from.

    Args:
        work: Folder of the search, with a folder for each trial.
        metric: That trials tell.
    """

    def __init__(self, work: Path, metric: str) -> None:
        os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", SECONDS)
        self.work, self.metric = work, metric
        self._seen = 0

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Write down a validation."""
        if self.metric not in result:
            return
        path = self.work / trial.trial_id / _TOLD
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:  # a line that a kill cut off spoils no other
            file.write("\n" + json.dumps([int(result["epoch"]), float(result[self.metric])]))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Keep Ray's state if it is new. Then what those had that are over by it is of no use: it is gigabytes."""
        if not trials:
            return
        written = Path(trials[0].storage.experiment_driver_staging_path)
        stamp = max((path.stat().st_mtime_ns for path in written.glob(_FILES[0])), default=0)
        if stamp == self._seen:
            return
        self._seen = stamp
        if not _keep(written, self.work):
            return
        for trial in trials:
            if trial.status == "TERMINATED":
                for name in ("scratch", "out"):
                    shutil.rmtree(self.work / trial.trial_id / name, ignore_errors=True)


def bring_back(work: Path, folder: Path) -> bool:
    """Put the state that was kept last into Ray's folder; False if there is none, and then there is no such folder."""
    states = _states(work)
    if not states or not (folder / "tuner.pkl").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        for state in states:
            shutil.rmtree(state)
        return False
    for name in _FILES:
        for path in folder.glob(name):
            path.unlink()
    for path in states[-1].iterdir():
        shutil.copyfile(path, folder / path.name)
    return True


def forget(work: Path, folder: Path) -> None:
    """Remove all of a search, such that no part of it is taken for one to go on with."""
    (folder / "tuner.pkl").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)


def told(work: Path, trial: str) -> list[tuple[int, float]]:
    """Epoch and metric of each validation of a trial. A trial killed before it saved an epoch tells of it twice."""
    found: dict[int, float] = {}
    path = work / trial / _TOLD
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            epoch, value = json.loads(line)
        except ValueError:
            continue
        found[epoch] = value
    return sorted(found.items())


def _keep(written: Path, work: Path) -> bool:
    """Copy Ray's state; False if it has no trial yet."""
    newest = max(written.glob(_FILES[0]), key=lambda path: path.stat().st_mtime_ns)
    if not json.loads(newest.read_text(encoding="utf-8"))["trial_data"]:
        return False
    before = _states(work)
    number = int(before[-1].name.removeprefix(_STATE)) + 1 if before else 0
    aside = work / "state.part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in _FILES:
        for path in written.glob(name):
            shutil.copyfile(path, aside / path.name)
    aside.rename(work / f"{_STATE}{number}")
    for old in before:
        shutil.rmtree(old, ignore_errors=True)
    return True


def _states(work: Path) -> list[Path]:
    return sorted(work.glob(f"{_STATE}*"), key=lambda path: int(path.name.removeprefix(_STATE)))
