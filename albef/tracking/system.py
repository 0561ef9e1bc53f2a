"""System metrics, measured by MLflow's monitors and logged through the tracker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from albef.tracking.mlflow_sync import first_line
from albef.tracking.tracker import Tracker

_logger = logging.getLogger(__name__)

_INTERVAL = 10.0  # seconds
_MONITORS = ("CPUMonitor", "DiskMonitor", "NetworkMonitor", "GPUMonitor", "ROCMMonitor")


def _monitors() -> list[Any]:
    """Return the available monitors of CPU, memory, disk, network and GPUs."""
    monitors = []
    for name in _MONITORS:
        module = f"mlflow.system_metrics.metrics.{name.removesuffix('Monitor').lower()}_monitor"
        try:
            monitors.append(getattr(import_module(module), name)())
        except Exception as error:  # psutil, a GPU library or a GPU is missing
            _logger.debug("%s is not available: %s", name, first_line(error))
    return monitors


def _sample(tracker: Tracker, stop: threading.Event) -> None:
    """Sample metrics until stopped, and once at the end."""
    try:
        from mlflow import environment_variables as variables

        interval = variables.MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or _INTERVAL
        samples = variables.MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING.get() or 1
        node = variables.MLFLOW_SYSTEM_METRICS_NODE_ID.get()
        prefix = f"system/{node}/" if node else "system/"
        monitors = _monitors()
        for monitor in monitors:  # CPU load is measured since the previous call
            monitor.collect_metrics()
            monitor.clear_metrics()
        while monitors:
            for _ in range(samples):
                stop.wait(interval)
                for monitor in monitors:
                    monitor.collect_metrics()
            values: dict[str, float] = {}
            for monitor in monitors:
                values |= {prefix + key: float(value) for key, value in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
            # Steps count from the first start of the run, so that a resumed run continues the count.
            step = round((time.time() - tracker.identity["start"] / 1000) / (interval * samples))
            tracker.log_metrics(values, step)
            if stop.is_set():
                return
    except Exception as error:  # a failing monitor must not stop a training
        _logger.warning("system metrics are not logged: %s", first_line(error))


@contextmanager
def system_metrics(tracker: Tracker) -> Iterator[None]:
    """Log system metrics while the block runs, and once at its end.

    The interval is ten seconds, or ``MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL``.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_sample, args=(tracker, stop), name="system-metrics", daemon=True)
    if tracker.uri != "none":
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if tracker.uri != "none":
            thread.join(5)
