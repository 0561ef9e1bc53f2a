"""Hyper-parameter search: Optuna proposes settings, ASHA stops poor trials, Ray runs them."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any

from albef.config import Config, section_of
from albef.tasks.base import task_class
from albef.tracking.origin import run_tags
from albef.tracking.runs import absolute_uri, start
from albef.tracking.tracker import flush_runs
from albef.training.distributed import cluster
from albef.training.state import digest_of, fingerprint
from albef.tuning import results, search_state, trial
from albef.tuning.space import Space, SpaceError, current_value, space_of
from albef.tuning.trial import Inputs
from albef.weights import checkpoint as model_file

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
        out: Folder for ``best.yaml``, ``metrics.json``, ``trials.csv`` and plots.
        work_dir: Folder for the state of the search, which is deleted at the end.
        tracking_uri: MLflow store; "none" disables tracking; None means ``MLFLOW_TRACKING_URI`` or a local SQLite file.

    Raises:
        SpaceError: If the task declares no search space, or has no validation metric or split.
        SearchError: If no trial was validated, or the search was interrupted.
    """
    kind = task_class(task)
    selection = str(kind.selection)
    searched = config.tune.trials > 0 and task in config.tune.tasks
    learned = _learned_values(init)
    space = space_of(config, task, learned)
    setting = {key: current_value(config, task, key, learned) for key in space}
    names = [f"{name}.json" for name in kind.lists]
    missing = [name for name in names if not (lists / name).is_file()]
    if searched and (kind.selection is None or missing):
        raise SpaceError(f"{task}: a search needs a validation split; missing: {', '.join(missing) or 'metrics'}")
    inputs = [
        *(lists / name for name in names if name not in missing),
        tokenizer / "tokenizer.json",
        init / "model.pth",
    ]
    data = digest_of(inputs)
    search = json.dumps([asdict(config.tune), space], sort_keys=True).encode()
    name = f"tune-{task}-{fingerprint(task, config, data)}-{hashlib.sha256(search).hexdigest()[:8]}"
    if not searched:
        return _write(results.Outcome(task, selection, setting, []), out)
    work_dir = work_dir.resolve()
    work_dir.mkdir(parents=True, exist_ok=True)
    uri = absolute_uri(tracking_uri)
    # Not inside Ray's folder of the search: Ray restores a search as soon as that folder exists.
    ray_dir, trials_dir = work_dir / name, work_dir / f"{name}-runs"
    trials_dir.mkdir(exist_ok=True)
    tags = {**run_tags("tune"), "task": task, "data": data}
    with start(f"tune {task}", {"tune": asdict(config.tune), "space": space}, tags, trials_dir, uri) as tracker:
        lists, images, tokenizer, init = (path.resolve() for path in (lists, images, tokenizer, init))
        trial_inputs = Inputs(lists, images, tokenizer, init, trials_dir, uri, tracker.identity, tags)
        grid = _search(config, task, space, setting, trial_inputs, ray_dir)
        if (ended := grid.num_terminated + grid.num_errors) < config.tune.trials:  # Ray also returns after Ctrl-C
            raise results.SearchError(
                f"{task}: interrupted after {ended} of {config.tune.trials} trials; run the same command to resume"
            )
        outcome = _write(results.Outcome.from_ray(grid, trials_dir, task, selection, setting), out)
        tracker.log_metrics(outcome.metrics, 0)
        for path in sorted(out.iterdir()):
            tracker.log_artifact(path)
    # Ray returns on the last report of a trial, before its tracker has sent everything.
    flush_runs(uri, work_dir, trials_dir.iterdir(), FLUSH_SECONDS)
    search_state.remove(trials_dir, ray_dir)
    return outcome


def _write(outcome: results.Outcome, out: Path) -> results.Outcome:
    results.write(outcome, out)
    return outcome


def _learned_values(init: Path) -> dict[str, float]:
    """Return training parameters stored in the weights, used where ``params.yaml`` has null."""
    state, _ = model_file.read(init / "model.pth")
    return {"temperature": float(state["temperature"])} if "temperature" in state else {}


def _search(config: Config, task: str, space: Space, setting: dict[str, Any], inputs: Inputs, ray_dir: Path) -> Any:
    """Run or resume the search, and return Ray's results."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output ignores verbose=0
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")  # seconds of progress that a kill may lose
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from albef.tuning.callbacks import Recorder
    from albef.tuning.resumable_optuna import ResumableLimiter, ResumableOptunaSearch

    settings = config.tune
    trainable = tune.with_resources(
        functools.partial(trial.run, config=config, task_name=task, inputs=inputs),
        {"cpu": settings.cpus_per_trial, "gpu": settings.gpus_per_trial},
    )
    epochs = settings.epochs or section_of(config, task).train.epochs
    logging.getLogger("optuna").setLevel(logging.WARNING)
    with cluster(ceil(settings.concurrent * settings.cpus_per_trial)):
        if search_state.restore(inputs.trials_dir, ray_dir):
            _logger.warning("tune %s: resuming the interrupted search", task)
            return tune.Tuner.restore(str(ray_dir), trainable, resume_unfinished=True, restart_errored=True).fit()
        searcher = ResumableOptunaSearch(points_to_evaluate=[setting], seed=settings.seed)
        return tune.Tuner(
            trainable,
            param_space={key: _distribution(tune, *bounds) for key, bounds in space.items()},
            tune_config=tune.TuneConfig(
                metric=task_class(task).selection,
                mode="max",
                search_alg=ResumableLimiter(searcher, settings.concurrent),
                scheduler=ASHAScheduler(
                    time_attr="epoch", max_t=max(epochs, 1), grace_period=min(settings.grace_epochs, epochs)
                ),
                num_samples=settings.trials,
            ),
            run_config=tune.RunConfig(
                name=ray_dir.name,
                storage_path=str(ray_dir.parent),
                verbose=0,
                callbacks=[Recorder(inputs.trials_dir, str(task_class(task).selection))],
            ),
        ).fit()


def _distribution(tune: Any, kind: str, low: float, high: float) -> Any:
    """Return a Ray distribution; Ray excludes the upper bound of integers."""
    return getattr(tune, kind)(low, high + 1 if kind in ("randint", "lograndint") else high)
