"""Hyper-parameter search: Optuna proposes settings, ASHA stops poor trials, Ray runs them."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.cluster import cluster
from albef.config import Config, section_of
from albef.data.lists import file_of
from albef.tasks.base import task_class
from albef.tracking.origin import run_tags
from albef.tracking.runs import absolute_uri, start
from albef.tracking.tracker import flush
from albef.training.state import digest_of, fingerprint
from albef.tuning import results, trial
from albef.tuning.space import Space, SpaceError, current_value, space_of
from albef.tuning.trial import Inputs
from albef.weights import checkpoint as model_file

if TYPE_CHECKING:
    from albef.tuning.study import Study

_logger = logging.getLogger(__name__)

FLUSH_SECONDS = 60.0
"""Time limit for sending the trials' remaining data to MLflow."""


def run(
    config: Config,
    task: str,
    lists: Path,
    images: Path,
    tokenizer: Path,
    init: Path,
    out: Path,
    work_dir: Path = Path("scratch"),
    tracking_uri: str | None = None,
) -> results.Outcome:
    """Search, resuming an interrupted search, and write the results to ``out``.

    Args:
        init: Folder of the ``model.pth`` that fine-tuning starts from.
        out: Folder for ``best.yaml``, ``metrics.json`` and ``trials.csv``.
        work_dir: Folder for the state of the search, which is deleted at the end.
        tracking_uri: MLflow store; "none" disables tracking; None means ``MLFLOW_TRACKING_URI`` or a local SQLite file.

    Raises:
        SpaceError: If the task declares no search space, or has no validation metric or split.
        SearchError: If no trial was validated, or the search was interrupted.
    """
    kind = task_class(task)
    learned = _learned_values(init)
    space = space_of(config, task, learned)
    setting = {key: current_value(config, task, key, learned) for key in space}
    files = [file_of(lists, name) for name in kind.lists]
    missing = [file.name for file in files if not file.is_file()]
    if kind.selection is None or missing:
        raise SpaceError(f"{task}: a search needs a validation split; missing: {', '.join(missing) or 'metrics'}")
    inputs = [
        *files,
        tokenizer / "tokenizer.json",
        init / "model.pth",
    ]
    data = digest_of(inputs)
    search = json.dumps([asdict(config.tune), space], sort_keys=True).encode()
    name = f"tune-{task}-{fingerprint(task, config, data)}-{hashlib.sha256(search).hexdigest()[:8]}"
    work_dir = work_dir.resolve()
    folder = work_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    uri = absolute_uri(tracking_uri)
    tags = {**run_tags("tune"), "task": task, "data": data}
    with start(f"tune {task}", {"tune": asdict(config.tune), "space": space}, tags, folder, uri) as tracker:
        lists, images, tokenizer, init = (path.resolve() for path in (lists, images, tokenizer, init))
        trial_inputs = Inputs(lists, images, tokenizer, init, folder, uri, tracker.identity, tags)
        outcome = _write(_search(config, task, space, setting, trial_inputs), out)
        tracker.log_metrics(outcome.metrics, 0)
        for path in sorted(out.iterdir()):
            tracker.log_artifact(path)
    # Ray returns on the last report of a trial, before its tracker has sent everything.
    flush(uri, work_dir, FLUSH_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _write(outcome: results.Outcome, out: Path) -> results.Outcome:
    results.write(outcome, out)
    return outcome


def _learned_values(init: Path) -> dict[str, float]:
    """Return training parameters stored in the weights, used where ``params.yaml`` has null."""
    state, _ = model_file.read(init / "model.pth")
    return {"temperature": float(state["temperature"])} if "temperature" in state else {}


def _search(config: Config, task: str, space: Space, setting: dict[str, Any], inputs: Inputs) -> results.Outcome:
    """Run or resume the search.

    Raises:
        SearchError: If no trial was validated, or the search was interrupted.
    """
    from albef.tuning.study import Study

    settings = config.tune
    study = Study(inputs.folder, space, setting, settings, settings.epochs or section_of(config, task).train.epochs)
    if study.trials():
        _logger.warning("tune %s: resuming the interrupted search", task)
    finished = study.num_finished
    errors = _run_trials(config, task, study, inputs, settings.trials - finished) if finished < settings.trials else {}
    ended = study.num_finished + len(errors)
    if ended < settings.trials:  # Ray also returns after Ctrl-C
        raise results.SearchError(
            f"{task}: interrupted after {ended} of {settings.trials} trials; run the same command to resume"
        )
    return results.Outcome.of(study.trials(), errors, task, str(task_class(task).selection), setting)


def _run_trials(config: Config, task: str, study: Study, inputs: Inputs, count: int) -> dict[int, str]:
    """Run trials of a study in Ray, and return errors by number."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output ignores verbose=0
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")  # a stopped trial may still send its last metrics
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter

    from albef.tuning.ray_adapters import StudyScheduler, StudySearcher

    settings = config.tune
    trainable = tune.with_resources(
        functools.partial(trial.run, config=config, task_name=task, inputs=inputs),
        {"cpu": settings.cpus_per_trial, "gpu": settings.gpus_per_trial},
    )
    sessions = inputs.folder / "ray"  # Ray's own state, of no use after a kill
    shutil.rmtree(sessions, ignore_errors=True)
    with cluster(ceil(settings.concurrent * settings.cpus_per_trial)):
        grid = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=ConcurrencyLimiter(StudySearcher(study), settings.concurrent),
                scheduler=StudyScheduler(study, str(task_class(task).selection)),
                num_samples=count,
                reuse_actors=True,  # a new process imports torch for seconds
            ),
            run_config=tune.RunConfig(name="search", storage_path=str(sessions), verbose=0),
        ).fit()
    return {int(result.config["number"]): str(result.error).strip().splitlines()[-1] for result in grid if result.error}
