"""Image decoding for asyncio: small images at once, others in worker processes.

A decoder that takes too long, takes too much memory or crashes ends a worker and fails one request. Workers start when
they are needed and are replaced when they die. They end with this process, whose death closes their input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from albef.data.images import ImageError
from albef.serving.decode_worker import REPLY, REQUEST, Decoded, decode
from albef.serving.image_guard import Header

INLINE_COST, INLINE_BYTES = 2**19, 2**19
"""Largest `Header.cost` and file that are decoded in this process: a few milliseconds, as much as passing them on."""
SMALL_COST = 4 * 2**20
"""Largest `Header.cost` of a small image: about 50 ms."""
MAX_WAITING = 8
"""Most requests that wait for a worker with a large image."""
_WALL = 4
"""Real time that a worker may take, in multiples of its CPU time, before it is killed; a busy machine is no fault."""
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH")
"""Variables passed to workers; others may be secrets."""
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from albef.serving.decode_worker import main; main(*sys.argv[2:])"
)


class BusyError(RuntimeError):
    """Too many large images are waiting."""


class _DeadError(Exception):
    """A worker died of a cause that need not be the image."""


def python() -> str:
    """Return the Python that runs workers.

    In Triton's stub the interpreter is embedded; ``python3`` on PATH is that of its environment.
    """
    if "python" in Path(sys.executable or "").name:
        return sys.executable
    found = shutil.which("python3")
    if found is None:
        raise RuntimeError("no python3 on PATH, which decodes images; add the environment of the endpoints to PATH")
    return found


class Worker:
    """Worker process with the socket to it."""

    def __init__(self, image_size: int, max_pixels: int) -> None:
        self.socket, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        command = [python(), "-I", "-B", "-c", _PROGRAM, root, str(image_size), str(max_pixels)]
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        with theirs:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**environment, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        self.socket.setblocking(False)

    def kill(self) -> int:
        """End the process and return its status; one that has died keeps its own."""
        self.socket.close()
        self.process.kill()
        return self.process.wait()

    async def ask(self, *parts: bytes) -> tuple[Any, bytes]:
        """Send a request and return description and pixels.

        Raises:
            OSError, EOFError: If the process has died.
        """
        loop = asyncio.get_running_loop()
        for part in parts:
            await loop.sock_sendall(self.socket, part)
        facts, pixels = REPLY.unpack(await self._read(REPLY.size))
        data = await self._read(facts + pixels)
        return json.loads(data[:facts]), data[facts:]

    async def _read(self, size: int) -> bytes:
        loop, data, done = asyncio.get_running_loop(), bytearray(size), 0
        while done < size:
            count = await loop.sock_recv_into(self.socket, memoryview(data)[done:])
            if not count:
                raise EOFError
            done += count
        return bytes(data)


class DecodePool:
    """Workers of one endpoint, used within one event loop.

    Large images never occupy the last of several workers, so that small ones need not wait for them.

    Args:
        workers: Most processes.
        seconds: CPU time for an image.
        image_size: Pixels per side of the results.
        max_pixels: Largest image, by which memory is limited.
    """

    def __init__(self, workers: int, seconds: float, image_size: int, max_pixels: int) -> None:
        self._seconds, self._image_size, self._max_pixels = seconds, image_size, max_pixels
        self._idle: list[Worker] = []
        self._free, self._free_for_large = asyncio.Semaphore(workers), asyncio.Semaphore(max(workers - 1, 1))
        self._waiting = 0

    def close(self) -> None:
        """End the workers that are idle."""
        while self._idle:
            self._idle.pop().kill()

    async def decode(
        self, data: bytes, header: Header, name: str, *, stats: bool = False, check: Callable[[], None] = lambda: None
    ) -> Decoded:
        """Decode and resize an image whose header was checked.

        Args:
            check: Called when it is the turn of the image; raises if nobody waits for it any more.

        Raises:
            ImageError: If it cannot be decoded within the limits.
            BusyError: If too many large images are waiting.
            RuntimeError: If workers do not start.
        """
        if header.cost <= INLINE_COST and len(data) <= INLINE_BYTES:
            await asyncio.sleep(0)  # other requests go on between the images of one
            return decode(data, header.kind, name, header.pixels, self._image_size, stats=stats)
        async with contextlib.AsyncExitStack() as stack:
            if header.cost > SMALL_COST:
                if self._waiting >= MAX_WAITING:
                    raise BusyError("the server is busy with large images; try again later, or shrink them")
                self._waiting += 1
                try:
                    await stack.enter_async_context(self._free_for_large)
                finally:
                    self._waiting -= 1
            await stack.enter_async_context(self._free)
            check()
            return await self._decode(data, header, name, stats)

    async def _decode(self, data: bytes, header: Header, name: str, stats: bool) -> Decoded:
        kind, label = header.kind.encode(), name.encode()
        head = REQUEST.pack(len(data), header.pixels, stats, self._seconds, len(kind), len(label)) + kind + label
        for _ in range(2):  # a worker may have been killed while it was idle
            try:
                facts, pixels = await self._ask(name, head, data)
            except _DeadError:
                continue
            if "error" in facts:
                raise ImageError(facts["error"])
            array = np.frombuffer(pixels, dtype=np.uint8).reshape(3, self._image_size, self._image_size)
            return Decoded((int(facts["size"][0]), int(facts["size"][1])), facts["stats"], array)
        raise ImageError(f"{name}: the {header.kind} decoder crashed on it, re-encode it")

    async def _ask(self, name: str, *parts: bytes) -> tuple[Any, bytes]:
        """Send a request to a worker.

        Raises:
            ImageError: If it takes too long.
            _DeadError: If the worker dies otherwise.
            RuntimeError: If it does not start.
        """
        worker = self._idle.pop() if self._idle else Worker(self._image_size, self._max_pixels)
        late = asyncio.get_running_loop().call_later(_WALL * self._seconds, worker.process.send_signal, signal.SIGPROF)
        try:
            reply = await worker.ask(*parts)
        except (OSError, EOFError) as error:
            status = await asyncio.to_thread(worker.kill)
            if status == -signal.SIGPROF:
                raise ImageError(
                    f"{name}: takes more than {self._seconds:g} s to decode, shrink or re-encode it"
                ) from error
            if status > 0:
                raise RuntimeError(f"a process that decodes images exited with status {status}; see the log") from error
            raise _DeadError from error
        except BaseException:
            worker.kill()
            raise
        finally:
            late.cancel()
        self._idle.append(worker)
        return reply
