"""Sample of request statistics for `albef drift`.

It contains numbers only, never an image, a text or an answer.

Every process of an endpoint writes its own files, one JSON object per row of a request, and keeps their number and size
bounded. Errors in this module are logged and never fail a request.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from albef.data.text import clean
from albef.io import utc_now
from albef.serving import protocol

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

FOLDER, FRACTION = "ALBEF_SAMPLE_REQUESTS", "ALBEF_SAMPLE_SHARE"
"""Environment variables: output folder (an absolute path), and fraction of requests to sample."""

DEFAULT_FRACTION = 0.1
FILE_BYTES, FILES = 4 * 2**20, 16
"""Maximum size of a file, and maximum number of files per endpoint; the oldest files are removed first."""
PAUSE = 30.0
"""Seconds without sampling after a write error."""

IMAGE = ("width", "height", "bytes", "brightness", "contrast")
TEXT = ("words", "tokens", "pieces", "unknown")
COLUMNS = (*IMAGE, *TEXT, "confidence")
"""Statistics of a row; null if the row has no image, no text or no probabilities."""

_SIDE = 64
Stats = dict[str, float | None]


def image_stats(image: Image.Image, size: int) -> Stats:
    """Return statistics of an RGB image.

    Brightness and its standard deviation (contrast) are between 0 and 1.

    Args:
        size: Size of the image file in bytes.
    """
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=1.0).convert("L")
    light = np.asarray(small, dtype=np.float32) / 255
    values = (image.width, image.height, size, round(float(light.mean()), 4), round(float(light.std()), 4))
    return dict(zip(IMAGE, values, strict=True))


def text_stats(text: str, encoder: Encoder) -> Stats:
    """Return statistics of a text before truncation.

    These are words, tokens, tokens per word (pieces) and the fraction of unknown tokens.
    """
    text = clean(text)
    ids = encoder.tokenizer.encode(text, add_special_tokens=False).ids
    words, tokens = len(text.split()), len(ids)
    unknown = ids.count(encoder.unk)
    values = (words, tokens, round(tokens / max(words, 1), 4), round(unknown / max(tokens, 1), 4))
    return dict(zip(TEXT, values, strict=True))


class Draft:
    """Image statistics and texts of one request, collected while it is answered."""

    def __init__(self) -> None:
        self.images: list[Stats] = []
        self.image_rows: list[int] = []
        self.texts: Sequence[str] = []
        self.encoder: Encoder | None = None

    def add_image(self, stats: Stats) -> None:
        """Add the next distinct image."""
        self.images.append(stats)

    def set_image_rows(self, rows: Sequence[int]) -> None:
        """Set the number of the distinct image of each row."""
        self.image_rows = list(rows)

    def set_texts(self, texts: Sequence[str], encoder: Encoder) -> None:
        """Set the texts, one per row."""
        self.texts, self.encoder = texts, encoder

    def records(self, rows: int, outputs: Mapping[str, Any]) -> list[Stats]:
        """Return the statistics of each row of an answered request."""
        records: list[Stats] = [dict.fromkeys(COLUMNS) for _ in range(rows)]
        for record, number in zip(records, self.image_rows, strict=False):
            record |= self.images[number]
        for record, text in zip(records, self.texts, strict=False):
            assert self.encoder is not None
            record |= text_stats(text, self.encoder)
        if protocol.PROBABILITIES in outputs:
            best = np.asarray(outputs[protocol.PROBABILITIES]).max(axis=1)
            for record, value in zip(records, best, strict=True):
                record["confidence"] = round(float(value), 4)
        return records


class Sampler:
    """Writer for statistics of a random sample of requests.

    Sampling is off unless the environment sets a folder.

    Args:
        log: Logger with the signature of `albef.serving.metrics.Log`.
        environment: By default the environment of the process.
    """

    def __init__(
        self, log: Callable[..., None], endpoint: str, version: int, environment: Mapping[str, str] | None = None
    ) -> None:
        environment = os.environ if environment is None else environment
        self._log, self._endpoint, self._version = log, endpoint, version
        self._folder = Path(environment[FOLDER]) if environment.get(FOLDER) else None
        self._fraction, self._file, self._size, self._paused_until = 0.0, -1, 0, 0.0
        if self._folder is None:
            return
        value = environment.get(FRACTION, str(DEFAULT_FRACTION))
        try:
            self._fraction = check_fraction(float(value))
        except ValueError:
            message = f"{FRACTION} is {value!r}, expected a number above 0 and at most 1; requests are not sampled"
            log("error", "sample", message=message)

    def draft(self) -> Draft | None:
        """Return a draft for a request, None if it is not sampled."""
        # Random rather than by request id: callers choose ids and may use the same one for all requests.
        if not self._fraction or random.random() >= self._fraction or time.monotonic() < self._paused_until:
            return None
        return Draft()

    def write(self, draft: Draft, rows: int, outputs: Mapping[str, Any]) -> None:
        """Write the statistics of an answered request."""
        try:
            head = {"time": utc_now(), "endpoint": self._endpoint, "version": self._version}
            lines = [json.dumps({**head, **stats}) + "\n" for stats in draft.records(rows, outputs)]
            self._append("".join(lines).encode())
        except Exception as error:
            self._close()
            self._paused_until = time.monotonic() + PAUSE
            text = f"cannot sample a request; sampling pauses for {PAUSE:g} s ({type(error).__name__}: {error})"
            self._log("warning", "sample", message=text)

    def _append(self, data: bytes) -> None:
        # A link count of 0 means that the file was deleted meanwhile.
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
        existing = sorted(self._folder.glob(f"{self._endpoint}-*.jsonl"))  # names sort by time
        for path in existing[: max(len(existing) - FILES + 1, 0)]:
            path.unlink(missing_ok=True)
        # A random name: containers may share the folder, and process ids repeat between containers.
        name = f"{self._endpoint}-{time.time_ns()}-{secrets.token_hex(4)}.jsonl"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file, self._size = os.open(self._folder / name, flags, 0o644), 0

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def check_fraction(value: float) -> float:
    """Return a sampling fraction after checking its range.

    Raises:
        ValueError: If it is not above 0 and at most 1.
    """
    if not 0 < value <= 1:
        raise ValueError(f"sampling fraction is {value:g}, expected above 0 and at most 1")
    return value
