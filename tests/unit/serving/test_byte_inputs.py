"""Tests of bounded reading of BYTES inputs."""

from __future__ import annotations

import struct
import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from albef.serving.byte_inputs import omitted, read_values


def encode(values: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(struct.pack("<I", len(value)) + value for value in values), np.uint8)


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_values_are_those_that_were_sent(values: list[bytes]) -> None:
    found = read_values(encode(values), 8).reshape((len(values),))
    assert found.tolist() == values
    assert not omitted(found)


def test_more_values_are_omitted_without_being_read() -> None:
    sent = np.zeros(4 * 5_000_000, np.uint8)
    start = time.process_time()
    found = read_values(sent, 100).reshape([5, 1_000_000])
    assert time.process_time() - start < 0.1  # all would take seconds
    assert omitted(found)
    assert found.shape == (5, 1_000_000)


def test_other_inputs_are_never_omitted() -> None:
    assert not omitted(np.broadcast_to(np.float32(0), (3, 4)))
    assert not omitted(read_values(encode([b"a"]), 1).reshape([1, 1]))
