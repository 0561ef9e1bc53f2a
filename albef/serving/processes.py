"""Child processes that do not outlive this one, even if it is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

# The watcher waits for the end of its input, which comes when the parent has closed the pipe or died.
_WATCHER = 'read -r _; kill -9 -"$0" 2>/dev/null; [ -z "$1" ] || rm -rf -- "$1" "$2"*'


class Running(ABC):
    """Something that runs for the duration of a ``with`` block."""

    @abstractmethod
    def start(self) -> None:
        """Start, and wait until it answers."""

    @abstractmethod
    def stop(self) -> object:
        """Stop, and clean up."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Child:
    """Running child process in a process group of its own.

    A second process watches this one, and kills the group when this one is gone. SIGKILL leaves no other way: Triton's
    stubs outlive a server that crashed, and ignore SIGTERM then.

    Args:
        command: Program and arguments.
        leftovers: Folder, and prefix of files, to remove when this process was killed.
        options: Further arguments of `subprocess.Popen`.
    """

    def __init__(self, command: Sequence[str], *, leftovers: tuple[Path, str] | None = None, **options: Any) -> None:
        self.process: subprocess.Popen[bytes] = subprocess.Popen(command, start_new_session=True, **options)
        removed = ["", ""] if leftovers is None else [str(leftovers[0]), leftovers[1]]
        try:
            self._watcher = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHER, str(self.process.pid), *removed],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """Process id, which is also the id of the process group."""
        return self.process.pid

    @property
    def input(self) -> IO[bytes]:
        """Pipe to the standard input, if it was requested."""
        assert self.process.stdin is not None
        return self.process.stdin

    def poll(self) -> int | None:
        """Return the exit status, None while the process runs."""
        return self.process.poll()

    def kill(self) -> None:
        """Kill the whole group, if anything of it is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def stop(self, seconds: float) -> int | None:
        """Stop the process and its group, by SIGTERM and after some seconds by SIGKILL.

        Returns:
            Exit status, None if the process had to be killed.
        """
        status = None
        if self.process.poll() is None:
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.process.wait(max(seconds, 0))
        self.kill()
        self.process.wait()
        self._watcher.kill()  # before the pipe is closed: the group is gone, and its number may be used again
        self._watcher.wait()
        for pipe in (self._watcher.stdin, self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return status
