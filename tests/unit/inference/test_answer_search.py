"""Tests of answer ranking and generation against an exhaustive decoder."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from albef.inference.answer_search import AnswerTree, generate, rank_answers
from albef.models.decoder import AnswerDecoder
from tests.errors import refuses
from tests.worlds import tiny_config

CLS, SEP = 2, 3
TOKENS = st.lists(st.integers(4, 8), min_size=1, max_size=4)


def _decoder(vocabulary: int, scale: float = 40.0, end: float = 0.0) -> AnswerDecoder:
    """Return a decoder with random weights.

    Args:
        vocabulary: Size of the vocabulary.
        scale: Spread of the token scores.
        end: Offset of the score of [SEP].
    """
    torch.manual_seed(0)
    decoder = AnswerDecoder(tiny_config().model.text, vocabulary).eval()
    with torch.no_grad():
        decoder.embeddings.word.weight.mul_(scale)
        decoder.head.bias.normal_()
        decoder.head.bias[SEP] += end
    return decoder


def _questions(count: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    mask = torch.ones(count, 5, dtype=torch.long)
    mask[-1, 3:] = 0
    return torch.randn(count, 5, 32), mask


DECODER = _decoder(10)
SMALL = _decoder(6)
UNDECIDED = _decoder(10, scale=6.0, end=1.0)
"""Answers end anywhere: the best one begins with a token that is not the best."""
STATES, MASK = _questions()


@torch.no_grad()
def _token_scores(decoder: AnswerDecoder, state: Tensor, mask: Tensor, answer: list[int]) -> Tensor:
    """Log-probabilities ``(len(answer) - 1, V)``: one pass over one whole answer of one question."""
    ids = torch.tensor([answer[:-1]])
    states = decoder(ids, torch.ones_like(ids), decoder.keys_values(state[None]), mask[None])
    return decoder.word_logits(states)[0].log_softmax(dim=-1)


def _pair(decoder: AnswerDecoder, row: int, answer: list[int]) -> tuple[float, float]:
    """Log-probability of the first token and of the whole answer."""
    scores = _token_scores(decoder, STATES[row], MASK[row], answer)
    found = scores.gather(1, torch.tensor(answer[1:])[:, None])[:, 0]
    return float(found[0]), float(found.sum())


@settings(max_examples=30, deadline=None)
@given(st.lists(TOKENS, min_size=1, max_size=9, unique_by=tuple), st.integers(1, 10), st.booleans())
def test_ranking_equals_the_decoder_on_every_pair(
    answers: list[list[int]], shortlist: int, official_quirks: bool
) -> None:
    candidates = [[CLS, *answer, SEP] for answer in answers]
    scores = rank_answers(DECODER, STATES, MASK, AnswerTree.build(candidates), shortlist, official_quirks)
    assert scores.shape == (len(STATES), len(candidates))
    for row in range(len(STATES)):
        pairs = [_pair(DECODER, row, candidate) for candidate in candidates]
        last = sorted((first for first, _ in pairs), reverse=True)[min(shortlist, len(pairs)) - 1]
        kept = [score > -math.inf for score in scores[row].tolist()]
        if official_quirks:  # which of equal ones are kept is anyone's choice
            assert sum(kept) == min(shortlist, len(pairs))
            assert all(first >= last - 1e-5 for (first, _), keep in zip(pairs, kept, strict=True) if keep)
        else:
            assert kept == [first >= last - 1e-5 for first, _ in pairs]
        for (first, whole), keep, score in zip(pairs, kept, scores[row].tolist(), strict=True):
            if keep:
                assert score == pytest.approx(whole + official_quirks * first, rel=1e-5, abs=2e-5)


def test_prefixes_of_each_other_and_shared_ones() -> None:
    """The tree holds each prefix once and knows where candidates end."""
    tree = AnswerTree.build([[CLS, 4, SEP], [CLS, 4, 5, SEP], [CLS, 6, 5, SEP], [CLS, 4, 5, 6, SEP]])
    assert [part.tolist() for part in tree.tokens] == [[4, 6], [5, 5], [6]]
    assert [part.tolist() for part in tree.parents] == [[0, 0], [0, 1], [0]]
    assert tree.nodes.tolist() == [[0, 0, -1, -1], [0, 0, 0, -1], [0, 1, 1, -1], [0, 0, 0, 0]]
    assert tree.targets.tolist() == [[4, 3, -1, -1], [4, 5, 3, -1], [6, 5, 3, -1], [4, 5, 6, 3]]


def test_probabilities_of_all_answers_of_a_length_sum_to_one() -> None:
    """Ends of sequences over the whole vocabulary: nothing is left out and nothing counted twice."""
    answers = [[CLS, a, b] for a in range(10) for b in range(10)]
    scores = rank_answers(DECODER, STATES, MASK, AnswerTree.build(answers), len(answers), official_quirks=False)
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("answers", [[], [[CLS]], [[CLS, 4, SEP], [5, 4, SEP]]])
def test_bad_candidates_are_refused(answers: list[list[int]]) -> None:
    with refuses(ValueError, "[CLS]", "[SEP]"):
        AnswerTree.build(answers)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("room", [1, 4])
def test_one_beam_is_the_argmax_loop(seed: int, room: int) -> None:
    states, mask = _questions(3, seed)
    found = generate(UNDECIDED, states, mask, CLS, SEP, beams=1, max_tokens=room)
    for row in range(3):
        answer: list[int] = []
        total = 0.0
        while len(answer) < room:
            log_p = _token_scores(UNDECIDED, states[row], mask[row], [CLS, *answer, SEP])[-1]
            if not answer:
                log_p[SEP] = -math.inf  # an answer has a word
            token = int(log_p.argmax())
            total += float(log_p[token])
            if token == SEP:
                break
            answer.append(token)
        assert len(found[row]) == 1
        assert found[row][0][0] == answer
        assert found[row][0][1] == pytest.approx(total, abs=2e-5)


def test_a_wide_beam_finds_the_best_of_all_answers() -> None:
    room, words = 3, [token for token in range(6) if token != SEP]
    states, mask = _questions(2, 5)
    found = generate(SMALL, states, mask, CLS, SEP, beams=len(words) ** room, max_tokens=room)
    for row in range(2):
        every = []
        for length in range(1, room + 1):
            for answer in itertools.product(words, repeat=length):
                scores = _token_scores(SMALL, states[row], mask[row], [CLS, *answer, SEP])
                targets = [*answer, SEP] if length < room else answer  # the longest are taken unended
                total = float(sum(scores[at, token] for at, token in enumerate(targets)))
                every.append((total, list(answer)))
        every.sort(key=lambda pair: -pair[0])
        best = found[row][:10]
        assert [score for _, score in best] == pytest.approx([score for score, _ in every[:10]], abs=5e-5)
        assert best[0][0] == every[0][1]


@pytest.mark.parametrize("room", [1, 2, 5])
def test_answers_end_sorted_and_without_end_tokens(room: int) -> None:
    found = generate(DECODER, STATES, MASK, CLS, SEP, beams=3, max_tokens=room)
    for answers in found:
        assert 1 <= len(answers) <= 3
        assert all(1 <= len(answer) <= room and SEP not in answer for answer, _ in answers)
        assert [score for _, score in answers] == sorted((score for _, score in answers), reverse=True)
        assert len({tuple(answer) for answer, _ in answers}) == len(answers)
