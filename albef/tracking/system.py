"""System metrics: measured by MLflow's own monitors, delivered as all else is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from albef.tracking.mlflow_sync import first_line
from albef.tracking.tracker import MlflowTracker, NoTracker

_logger = logging.getLogger(__name__)

_SECONDS = 10.0


def _monitors() -> list[Any]:
    """Of CPU and memory, disk, network and GPUs: those that work here."""
    from importlib import import_module

    found = []
    for module, name in (
        ("cpu_monitor", "CPUMonitor"),
        ("disk_monitor", "DiskMonitor"),
        ("network_monitor", "NetworkMonitor"),
        ("gpu_monitor", "GPUMonitor"),
        ("rocm_monitor", "ROCMMonitor"),
    ):
        try:
            found.append(getattr(import_module(f"mlflow.system_metrics.metrics.{module}"), name)())
        except Exception as error:  # no psutil, no library of the GPU's, or no GPU
            _logger.debug("no %s: %s", name, first_line(error))
    return found


class _Sampler:
    """A thread that measures until it is told to stop, and then once more."""

    def __init__(self, tracker: MlflowTracker) -> None:
        self.tracker = tracker
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        try:
            from mlflow import environment_variables as known

            interval = known.MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or _SECONDS
            samples = known.MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING.get() or 1
            node = known.MLFLOW_SYSTEM_METRICS_NODE_ID.get()
            prefix = "system/" + (f"{node}/" if node else "")
            monitors = _monitors()
            for monitor in monitors:  # the CPU's load is that since it was last asked for
                monitor.collect_metrics()
                monitor.clear_metrics()
            while monitors:
                for _ in range(samples):
                    self.stop.wait(interval)
                    for monitor in monitors:
                        monitor.collect_metrics()
                values: dict[str, float] = {}
                for monitor in monitors:
                    values |= monitor.aggregate_metrics()
                    monitor.clear_metrics()
                # Counted from the start of the run, so that one that is started again goes on counting.
                step = round((time.time() - self.tracker.identity["start"] / 1000) / (interval * samples))
                self.tracker.log_metrics({prefix + key: float(value) for key, value in values.items()}, step)
                if self.stop.is_set():
                    return
        except Exception as error:  # nothing that is measured here is worth a training
            _logger.warning("no system metrics: %s", first_line(error))


@contextmanager
def system_metrics(tracker: NoTracker | MlflowTracker) -> Iterator[None]:
    """Log the machine's load every ten seconds (or ``MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL``) and at the end."""
    if not isinstance(tracker, MlflowTracker):
        yield
        return
    sampler = _Sampler(tracker)
    try:
        yield
    finally:
        sampler.stop.set()
        sampler.thread.join(5)
