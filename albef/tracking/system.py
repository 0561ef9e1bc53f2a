"""System metrics, measured by MLflow's monitors and logged through the tracker."""

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

_INTERVAL = 10.0  # seconds


def _monitors() -> list[Any]:
    """Return the available monitors of CPU, memory, disk, network and GPUs."""
    from importlib import import_module

    monitors = []
    for module, name in (
        ("cpu_monitor", "CPUMonitor"),
        ("disk_monitor", "DiskMonitor"),
        ("network_monitor", "NetworkMonitor"),
        ("gpu_monitor", "GPUMonitor"),
        ("rocm_monitor", "ROCMMonitor"),
    ):
        try:
            monitors.append(getattr(import_module(f"mlflow.system_metrics.metrics.{module}"), name)())
        except Exception as error:  # psutil, a GPU library or a GPU is missing
            _logger.debug("%s is not available: %s", name, first_line(error))
    return monitors


class _Sampler:
    """Thread that samples metrics until stopped, and once at the end."""

    def __init__(self, tracker: MlflowTracker) -> None:
        self.tracker = tracker
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._sample, name="system-metrics", daemon=True)
        self.thread.start()

    def _sample(self) -> None:
        try:
            from mlflow import environment_variables as variables

            interval = variables.MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or _INTERVAL
            samples = variables.MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING.get() or 1
            node = variables.MLFLOW_SYSTEM_METRICS_NODE_ID.get()
            prefix = "system/" + (f"{node}/" if node else "")
            monitors = _monitors()
            for monitor in monitors:  # CPU load is measured since the previous call
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
                # Steps count from the first start of the run, so that a resumed run continues the count.
                step = round((time.time() - self.tracker.identity["start"] / 1000) / (interval * samples))
                self.tracker.log_metrics({prefix + key: float(value) for key, value in values.items()}, step)
                if self.stop.is_set():
                    return
        except Exception as error:  # a failing monitor must not stop a training
            _logger.warning("system metrics are not logged: %s", first_line(error))


@contextmanager
def system_metrics(tracker: NoTracker | MlflowTracker) -> Iterator[None]:
    """Log system metrics while the block runs, and once at its end.

    The interval is ten seconds, or ``MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL``.
    """
    if not isinstance(tracker, MlflowTracker):
        yield
        return
    sampler = _Sampler(tracker)
    try:
        yield
    finally:
        sampler.stop.set()
        sampler.thread.join(5)
