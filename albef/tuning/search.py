"""The search: Optuna proposes settings, ASHA stops those that fall behind, Ray runs them side by side."""

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

from albef import tasks
from albef.config import Config, section_of
from albef.tracking.origin import run_tags
from albef.tracking.runs import absolute, start
from albef.tracking.tracker import settle
from albef.training.distributed import cluster
from albef.training.state import digest_of, fingerprint
from albef.tuning import results, search_state, trial
from albef.tuning.space import Space, SpaceError, present, space_of
from albef.tuning.trial import Inputs
from albef.weights import checkpoint as model_file

_logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds for MLflow to take what trials leave."""


def run(
    config: Config,
    task: str,
    lists: Path,
    images: Path,
    tokenizer: Path,
    init: Path,
    out: Path,
    scratch: Path = Path("scratch"),
    tracking_uri: str | None = None,
) -> results.Outcome:
    """Search, from where it was interrupted if it was, and write what came of it to ``out``.

    Args:
        init: Folder of the stage whose ``model.pth`` fine-tuning starts from.
        out: Folder for ``best.yaml``, ``trials.csv`` and plots.
        scratch: Folder for the state of the search; emptied of it at the end.
        tracking_uri: MLflow store; "none" tracks nothing; None takes ``MLFLOW_TRACKING_URI`` or a local SQLite file.

    Raises:
        SpaceError: If the task has nothing to search, or no validation split to judge by.
        SearchError: If no trial came to a result.
    """
    kind = tasks.get(task)
    selection = str(kind.selection)
    learned = _learned(init)
    space = space_of(config, task, learned)
    setting = {key: present(config, task, key, learned) for key in space}
    names = [f"{name}.json" for name in kind.lists]
    missing = [name for name in names if not (lists / name).is_file()]
    if config.tune.trials and (kind.selection is None or missing):
        raise SpaceError(f"{task}: a search needs a validation split; missing are {', '.join(missing) or 'metrics'}")
    inputs = [
        *(lists / name for name in names if name not in missing),
        tokenizer / "tokenizer.json",
        init / "model.pth",
    ]
    data = digest_of(inputs)
    search = json.dumps([asdict(config.tune), space], sort_keys=True).encode()
    name = f"tune-{task}-{fingerprint(task, config, data)}-{hashlib.sha256(search).hexdigest()[:8]}"
    if config.tune.trials == 0:
        return _ended(results.Outcome(task, selection, setting, []), out)
    storage = scratch.resolve()
    storage.mkdir(parents=True, exist_ok=True)
    uri = absolute(tracking_uri)
    # Beside the search's own folder, which Ray takes for one to restore as soon as it is there.
    place = storage / f"{name}-runs"
    place.mkdir(exist_ok=True)
    tags = {**run_tags("tune"), "task": task, "data": data}
    with start(f"tune {task}", {"tune": asdict(config.tune), "space": space}, tags, place, uri) as tracker:
        lists, images, tokenizer, init = (path.resolve() for path in (lists, images, tokenizer, init))
        given = Inputs(lists, images, tokenizer, init, place, uri, tracker.identity, tags)
        found = _search(config, task, space, setting, given, storage / name)
        if (ended := found.num_terminated + found.num_errors) < config.tune.trials:  # Ray returns after Ctrl-C, too
            raise results.SearchError(
                f"{task}: interrupted, {ended} of {config.tune.trials} trials; run again to go on"
            )
        outcome = _ended(results.Outcome.of(found, place, task, selection, setting), out)
        tracker.log_metrics(outcome.metrics, 0)
        for path in sorted(out.iterdir()):
            tracker.log_artifact(path)
    settle(uri, storage, place.iterdir(), PATIENCE)  # the last trial is told of before it has told MLflow all
    search_state.forget(place, storage / name)
    return outcome


def _ended(outcome: results.Outcome, out: Path) -> results.Outcome:
    results.write(outcome, out)
    return outcome


def _learned(init: Path) -> dict[str, float]:
    """Training parameters that the weights have, where ``params.yaml`` has null."""
    state, _ = model_file.read(init / "model.pth")
    return {"temperature": float(state["temperature"])} if "temperature" in state else {}


def _search(config: Config, task: str, space: Space, setting: dict[str, Any], inputs: Inputs, folder: Path) -> Any:
    """Ray's results."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # quiet means quiet there
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")  # a kill costs no more than that
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from albef.tuning.callbacks import Recorder
    from albef.tuning.resumable_optuna import Limit, Proposals

    settings = config.tune
    trainable = tune.with_resources(
        functools.partial(trial.run, config=config, task_name=task, inputs=inputs),
        {"cpu": settings.cpus_per_trial, "gpu": settings.gpus_per_trial},
    )
    epochs = settings.epochs or section_of(config, task).train.epochs
    logging.getLogger("optuna").setLevel(logging.WARNING)
    with cluster(ceil(settings.concurrent * settings.cpus_per_trial)):
        if search_state.bring_back(inputs.work, folder):
            _logger.warning("tune %s: going on with the search that was interrupted", task)
            return tune.Tuner.restore(str(folder), trainable, resume_unfinished=True, restart_errored=True).fit()
        return tune.Tuner(
            trainable,
            param_space={key: _drawn(tune, *bounds) for key, bounds in space.items()},
            tune_config=tune.TuneConfig(
                metric=tasks.get(task).selection,
                mode="max",
                search_alg=Limit(Proposals(points_to_evaluate=[setting], seed=settings.seed), settings.concurrent),
                scheduler=ASHAScheduler(
                    time_attr="epoch", max_t=max(epochs, 1), grace_period=min(settings.grace_epochs, epochs)
                ),
                num_samples=settings.trials,
            ),
            run_config=tune.RunConfig(
                name=folder.name,
                storage_path=str(folder.parent),
                verbose=0,
                callbacks=[Recorder(inputs.work, str(tasks.get(task).selection))],
            ),
        ).fit()


def _drawn(tune: Any, kind: str, low: float, high: float) -> Any:
    """A distribution of Ray, whose integers leave out the upper bound."""
    return getattr(tune, kind)(low, high + 1 if kind in ("randint", "lograndint") else high)
