"""Shared memory for images of clients on the server's host.

A region is borrowed by one request at a time. The server maps a region once, by name, and reads from it while it
answers.
"""

from __future__ import annotations

import secrets
import struct
import threading
from collections.abc import Iterable
from multiprocessing.shared_memory import SharedMemory

_MIN_SIZE = 2**16
_LENGTH = struct.Struct("<I")


class Region:
    """Shared memory region.

    Attributes:
        name: Name under which the server registers it.
        size: Size in bytes.
        used: Bytes of the tensor stored in it.
        registered: True if the server maps it, as far as is known.
        stale: True if the server may still have an older registration under this name.
    """

    def __init__(self, size: int) -> None:
        self.name = f"albef_client_{secrets.token_hex(8)}"
        self.memory = SharedMemory(self.name, create=True, size=size)
        self.size, self.used = size, 0
        self.registered = self.stale = False

    @property
    def key(self) -> str:
        """Name of the region in the operating system."""
        return f"/{self.name}"

    def lost(self) -> None:
        """Mark the registration as unknown."""
        self.stale, self.registered = True, False

    def fill(self, values: Iterable[bytes]) -> None:
        """Write a tensor of type BYTES: each element preceded by its length."""
        at, buffer = 0, self.memory.buf
        assert buffer is not None
        for value in values:
            buffer[at : at + _LENGTH.size] = _LENGTH.pack(len(value))
            at += _LENGTH.size
            buffer[at : at + len(value)] = value
            at += len(value)
        self.used = at

    def destroy(self) -> None:
        """Free the memory."""
        self.memory.close()
        self.memory.unlink()


class Pool:
    """Thread-safe pool of a client's regions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._all: list[Region] = []

    def take(self, values: list[bytes]) -> Region:
        """Borrow a region and fill it with a BYTES tensor.

        Raises:
            OSError: If there is not enough shared memory.
        """
        needed = sum(len(value) + _LENGTH.size for value in values)
        with self._lock:
            fitting = [region for region in self._free if region.size >= needed]
            region = min(fitting, key=lambda region: region.size, default=None)
            if region is None:
                region = Region(max(1 << (needed - 1).bit_length(), _MIN_SIZE))
                self._all.append(region)
            else:
                self._free.remove(region)
        region.fill(values)
        return region

    def give(self, region: Region) -> None:
        """Return a region to the pool.

        Do not return a region that the server may still read from.
        """
        with self._lock:
            self._free.append(region)

    def regions(self) -> list[Region]:
        """Return all regions, borrowed ones included."""
        with self._lock:
            return list(self._all)

    def close(self) -> None:
        """Free all regions."""
        for region in self.regions():
            region.destroy()
        self._all, self._free = [], []
