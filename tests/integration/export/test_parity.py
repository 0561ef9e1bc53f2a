from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from albef.export import parity_inputs
from albef.export.parity import Parity, ParityError, check
from albef.serving import protocol
from tests.errors import refuses
from tests.served import random_model


@given(st.floats(0, 10), st.floats(1e-6, 10))
def test_gate_is_the_largest_absolute_difference(difference, tolerance):
    parity = Parity()
    expected = np.array([[1.0, 20.0]])
    parity.add(expected, expected)
    parity.add(expected + np.array([[0, difference]]), expected)
    parity.add(expected, expected)
    assert parity.cases == 3
    assert parity.max_abs == pytest.approx(difference, abs=1e-12)
    if parity.max_abs <= tolerance:
        check("m", {"out": parity}, tolerance)
    else:
        with refuses(ParityError, "m", "out", "export.tolerance"):
            check("m", {"out": parity}, tolerance)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("both", [True, False])
def test_what_is_no_number_never_passes(bad, both):
    parity = Parity()
    broken = np.array([bad, 1.0])
    parity.add(broken, broken if both else np.ones(2))
    with pytest.raises(ParityError):
        check("m", {"out": parity}, 1e9)


def test_other_shapes_never_pass():
    parity = Parity()
    parity.add(np.ones((1, 2)), np.ones((2, 1)))
    with pytest.raises(ParityError):
        check("m", {"out": parity}, 1e9)


def test_an_output_without_cases_never_passes():
    with refuses(ParityError, "m", "out"):
        check("m", {"out": Parity()}, 1.0)


def test_cases_are_the_same_every_time_and_fit_the_model(model):
    from albef.data import tokenizer

    net = random_model(model.folder, model.config)
    words = tokenizer.load(model.folder / "tokenizer")
    first, second = (parity_inputs.build(net, words, 6) for _ in range(2))
    assert len(first) == 6 + len(parity_inputs.lengths(net.config.text.max_positions))
    for one, two in zip(first, second, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
        ids, mask = one[protocol.INPUT_IDS], one[protocol.ATTENTION_MASK]
        assert ids.shape == mask.shape
        assert ids.dtype == mask.dtype == np.int64
        assert ids.min() >= 0
        assert ids.max() < net.vocab_size
        assert (mask[:, 0] == 1).all()
        assert (np.diff(mask, axis=1) <= 0).all()  # padding is on the right
    # Real words start with [CLS]; noise does not, as a rule.
    assert any((case[protocol.INPUT_IDS][:, 0] == words.token_to_id("[CLS]")).all() for case in first)


@given(st.integers(1, 600))
def test_lengths_reach_both_ends(limit):
    tried = parity_inputs.lengths(limit)
    assert tried[0] == 1
    assert tried[-1] == limit
