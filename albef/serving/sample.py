"""A sample of what the endpoints are asked, for `albef drift`: figures alone, never a picture, a text or an answer.

Every process of an endpoint writes files of its own, a JSON object a question, and keeps their number and size within
bounds. Whatever goes wrong here is logged, and no request fails by it.
"""

from __future__ import annotations

import functools
import json
import os
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from albef.data.text import clean
from albef.serving import protocol

FOLDER, SHARE = "ALBEF_SAMPLE_REQUESTS", "ALBEF_SAMPLE_SHARE"
"""Environment variables: the folder to write, as an absolute path, and the share of requests that are noted."""

DEFAULT_SHARE = 0.1
FILE_BYTES, FILES = 4 * 2**20, 16
"""Largest file, and how many of an endpoint stay: the oldest go first."""
PAUSE = 30.0
"""Seconds without a sample once it could not be written."""

PICTURE = ("width", "height", "bytes", "brightness", "contrast")
TEXT = ("words", "tokens", "pieces", "unknown")
COLUMNS = (*PICTURE, *TEXT, "confidence")
"""Figures of a question; null where it has no picture, no text, or no probabilities."""

_SIDE = 64
Figures = dict[str, float | None]


class Words(Protocol):
    """What is used of `albef.data.tokenizer.Encoder`."""

    tokenizer: Any
    unk: int


def of_picture(picture: Image.Image, size: int) -> Figures:
    """Figures of an RGB picture of ``size`` bytes; brightness and its standard deviation (contrast) go from 0 to 1."""
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=1.0).convert("L")
    light = np.asarray(small, dtype=np.float32) / 255
    values = (picture.width, picture.height, size, round(float(light.mean()), 4), round(float(light.std()), 4))
    return dict(zip(PICTURE, values, strict=True))


def of_text(text: str, encoder: Words) -> Figures:
    """Figures of a text before it is cut: words, tokens, tokens a word (pieces) and the share of unknown ones."""
    text = clean(text)
    ids = encoder.tokenizer.encode(text, add_special_tokens=False).ids
    words, tokens = len(text.split()), len(ids)
    unknown = ids.count(encoder.unk)
    values = (words, tokens, round(tokens / max(words, 1), 4), round(unknown / max(tokens, 1), 4))
    return dict(zip(TEXT, values, strict=True))


def _harmless(method: Callable[..., None]) -> Callable[..., None]:
    """An answer is worth more than its record: what is raised is kept until the record would be written."""

    @functools.wraps(method)
    def call(self: Draft, *args: Any) -> None:
        try:
            method(self, *args)
        except Exception as error:
            self.problem = error

    return call


class Draft:
    """What is noted of one request while it is answered."""

    def __init__(self) -> None:
        self.pictures: list[Figures] = []
        self.shown: list[int] = []
        self.texts: list[Figures] = []
        self.problem: Exception | None = None

    @_harmless
    def picture(self, picture: Image.Image, size: int) -> None:
        """One of the different pictures, in their order."""
        self.pictures.append(of_picture(picture, size))

    @_harmless
    def show(self, rows: Sequence[int]) -> None:
        """Which of the different pictures each row shows."""
        self.shown = list(rows)

    @_harmless
    def read(self, texts: Sequence[str], encoder: Words) -> None:
        """The texts, one a row."""
        self.texts = [of_text(text, encoder) for text in texts]

    def records(self, rows: int, outputs: Mapping[str, Any]) -> list[Figures]:
        """Figures of each row, once it has been answered."""
        found: list[Figures] = [dict.fromkeys(COLUMNS) for _ in range(rows)]
        for record, at in zip(found, self.shown, strict=False):
            record |= self.pictures[at]
        for record, text in zip(found, self.texts, strict=False):
            record |= text
        if protocol.ENDPOINT_PROBABILITIES in outputs:
            best = np.asarray(outputs[protocol.ENDPOINT_PROBABILITIES]).max(axis=1)
            for record, value in zip(found, best, strict=True):
                record["confidence"] = round(float(value), 4)
        return found


class Sampler:
    """Chooses requests and writes their figures. Off unless the environment names a folder.

    Args:
        log: Called as `albef.serving.metrics.Log` is.
        environment: By default that of the process.
    """

    def __init__(
        self, log: Callable[..., None], endpoint: str, version: int, environment: Mapping[str, str] | None = None
    ) -> None:
        environment = os.environ if environment is None else environment
        self._log, self._endpoint, self._version = log, endpoint, version
        self._folder = Path(environment[FOLDER]) if environment.get(FOLDER) else None
        self._share, self._file, self._size, self._silent = 0.0, -1, 0, 0.0
        if self._folder is None:
            return
        given = environment.get(SHARE, str(DEFAULT_SHARE))
        try:
            self._share = share_of(float(given))
        except ValueError:
            log("error", "sample", message=f"{SHARE} is {given!r}, expected a number above 0, at most 1: no sample")

    def draft(self) -> Draft | None:
        """A draft for a request that is to be noted. Drawn by chance: ids are the caller's, and may all be one."""
        if not self._share or random.random() >= self._share or time.monotonic() < self._silent:
            return None
        return Draft()

    def write(self, draft: Draft, rows: int, outputs: Mapping[str, Any]) -> None:
        """Note a request that was answered."""
        try:
            if draft.problem is not None:
                raise draft.problem
            now = time.time()
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
            head = {"time": stamp, "endpoint": self._endpoint, "version": self._version}
            lines = [json.dumps({**head, **figures}) + "\n" for figures in draft.records(rows, outputs)]
            self._append("".join(lines).encode())
        except Exception as error:
            self._close()
            self._silent = time.monotonic() + PAUSE
            text = f"a request was not noted, none is for {PAUSE:g} s ({type(error).__name__}: {error})"
            self._log("warning", "sample", message=text)

    def _append(self, data: bytes) -> None:
        # Somebody may have cleared the folder.
        if self._file < 0 or self._size + len(data) > FILE_BYTES or not os.fstat(self._file).st_nlink:
            self._open()
        written = os.write(self._file, data)
        if written != len(data):
            raise OSError(f"{written} of {len(data)} bytes were written")
        self._size += written

    def _open(self) -> None:
        assert self._folder is not None
        self._close()
        self._folder.mkdir(parents=True, exist_ok=True)
        before = sorted(self._folder.glob(f"{self._endpoint}-*.jsonl"))  # by time: it is in the name
        for path in before[: max(len(before) - FILES + 1, 0)]:
            path.unlink(missing_ok=True)
        # A name of its own: processes of several containers may share a folder, and their numbers.
        name = f"{self._endpoint}-{time.time_ns()}-{secrets.token_hex(4)}.jsonl"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file, self._size = os.open(self._folder / name, flags, 0o644), 0

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def share_of(value: float) -> float:
    """A share that can be sampled.

    Raises:
        ValueError: If it is none.
    """
    if not 0 < value <= 1:
        raise ValueError(f"the share of requests to sample is {value:g}, expected above 0, at most 1")
    return value
