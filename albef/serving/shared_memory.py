"""Images by way of shared memory: a client on the server's host need not send them.

A region is lent to one request at a time. The server maps it once, under its name, and reads from it while it answers.
"""

from __future__ import annotations

import secrets
import struct
import threading
from collections.abc import Iterable
from multiprocessing.shared_memory import SharedMemory

_SMALLEST = 2**16
_LENGTH = struct.Struct("<I")


class Region:
    """A piece of shared memory.

    Attributes:
        name: That the server knows it by.
        size: Its bytes.
        used: Bytes of the tensor in it.
        registered: Whether the server maps it, as far as is known.
        stale: Whether the server may hold it for another one.
    """

    def __init__(self, size: int) -> None:
        self.name = f"albef_client_{secrets.token_hex(8)}"
        self.memory = SharedMemory(self.name, create=True, size=size)
        self.size, self.used = size, 0
        self.registered = self.stale = False

    @property
    def key(self) -> str:
        """The name that the operating system knows it by."""
        return f"/{self.name}"

    def lost(self) -> None:
        """Note that the server may not know it any more."""
        self.stale, self.registered = True, False

    def fill(self, values: Iterable[bytes]) -> None:
        """Write a tensor of type BYTES: each element after its length."""
        at, buffer = 0, self.memory.buf
        assert buffer is not None
        for value in values:
            buffer[at : at + _LENGTH.size] = _LENGTH.pack(len(value))
            at += _LENGTH.size
            buffer[at : at + len(value)] = value
            at += len(value)
        self.used = at

    def destroy(self) -> None:
        """Give the memory back."""
        self.memory.close()
        self.memory.unlink()


class Pool:
    """The regions of a client; usable from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._all: list[Region] = []

    def take(self, values: list[bytes]) -> Region:
        """A region that holds a tensor of these elements.

        Raises:
            OSError: If there is not that much shared memory.
        """
        needed = sum(len(value) + _LENGTH.size for value in values)
        with self._lock:
            fitting = [region for region in self._free if region.size >= needed]
            region = min(fitting, key=lambda region: region.size, default=None)
            if region is None:
                region = Region(max(1 << (needed - 1).bit_length(), _SMALLEST))
                self._all.append(region)
            else:
                self._free.remove(region)
        region.fill(values)
        return region

    def give(self, region: Region) -> None:
        """Take a region back, to be lent again. One that the server may still read from is not given back."""
        with self._lock:
            self._free.append(region)

    def regions(self) -> list[Region]:
        """All regions."""
        with self._lock:
            return list(self._all)

    def close(self) -> None:
        """Give all memory back."""
        for region in self.regions():
            region.destroy()
        self._all, self._free = [], []
