"""What a search has come to, on disk, such that a kill at any moment neither breaks it nor costs more than a moment.

Ray writes its state in place, into a folder of its session, and copies it from there in the background: killed
meanwhile, a part is there, or an old one. Here it is kept whole each time that Ray has written it, and what trials tell
is written down as it comes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

CHECKPOINTS, RESULTS = "scratch", "out"
"""Folders of a trial with what it goes on from, and with what its training wrote: gigabytes."""
STATES = "experiment_state-*.json"
"""Ray's files of all trials, one for each session."""
_FILES = (STATES, "search_gen_state-*.json", "searcher-state-*.pkl", "callback-states-*.pkl")
_STATE = "state-"
_TOLD = "told.jsonl"


def tell(work: Path, trial: str, epoch: int, value: float) -> None:
    """Write down a validation."""
    path = work / trial / _TOLD
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:  # a line that a kill cut off spoils no other
        file.write("\n" + json.dumps([epoch, value]))


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


def keep(written: Path, work: Path) -> bool:
    """Copy the state that Ray wrote to the folder of its session; False if it has no trial yet."""
    newest = max(written.glob(STATES), key=lambda path: path.stat().st_mtime_ns)
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


def discard(work: Path, trial: str) -> None:
    """Remove what a trial would go on from."""
    for name in (CHECKPOINTS, RESULTS):
        shutil.rmtree(work / trial / name, ignore_errors=True)


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


def _states(work: Path) -> list[Path]:
    return sorted(work.glob(f"{_STATE}*"), key=lambda path: int(path.name.removeprefix(_STATE)))
