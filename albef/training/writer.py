"""Checkpoints written in the background."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albef.training import state as run_state


class Writer:
    """Writes training states while training goes on.

    The state is copied on the device at once, which takes milliseconds; a thread moves the copy to memory and to disk.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def write(self, path: Path, state: dict[str, Any]) -> None:
        """Start to write a state; waits for the one before.

        Raises:
            OSError: If the state before could not be written.
        """
        self.wait()
        copy = _mapped(state, lambda value: value.detach().clone())
        event = None
        if torch.cuda.is_available():
            event = torch.cuda.Event()
            event.record()
        # Not a daemon: at the end of the process, what has begun is still written.
        self._thread = threading.Thread(target=self._write, args=(path, copy, event), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until the last state is on disk.

        Raises:
            OSError: If it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, path: Path, state: dict[str, Any], event: torch.cuda.Event | None) -> None:
        try:
            if event is not None:
                stream = torch.cuda.Stream()
                stream.wait_event(event)
                with torch.cuda.stream(stream):
                    state = _mapped(state, lambda value: value.to("cpu"))
            run_state.save(path, state)
        except BaseException as error:
            self._error = error


def _mapped(value: Any, function: Any) -> Any:
    """Apply a function to all tensors in nested dictionaries, lists and tuples."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _mapped(item, function) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(item, function) for item in value)
    return value
