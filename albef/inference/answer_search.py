"""Answers from the decoder: ranking of a list of candidates, and free generation (paper section 5).

B = questions, C = candidates, M = answer prefixes of a question, L = tokens, V = vocabulary.

Candidates are scored along their tree of prefixes: a prefix that several candidates share is computed once a question,
each token once, and question states are projected once. What of a prefix no question has touched yet, up to the first
cross-attention, is computed once for all questions. The scores are those of a pass over every pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from albef.models.bert import KeysValues, key_mask
from albef.models.decoder import AnswerDecoder, DecoderLayer

_HEAD_ROWS = 512
"""Rows whose vocabulary scores are held at once."""


@dataclass(frozen=True)
class AnswerTree:
    """Candidates by the tree of their prefixes, [CLS] the root. Depth d holds the prefixes of d tokens.

    Attributes:
        start: Id of [CLS].
        tokens: By depth from 1: last token of every prefix ``(n,)``.
        parents: By depth from 1: prefix of the depth above ``(n,)``.
        nodes: ``(C, depths + 1)``: prefix of each candidate at every depth, -1 beyond its end.
        targets: ``(C, depths + 1)``: token that follows the prefix; [SEP] at the candidate's end, -1 beyond.
    """

    start: int
    tokens: list[Tensor]
    parents: list[Tensor]
    nodes: Tensor
    targets: Tensor

    @classmethod
    def build(cls, answers: Sequence[Sequence[int]]) -> AnswerTree:
        """Build from token ids, each candidate [CLS] first and [SEP] last.

        Raises:
            ValueError: If there is no candidate, or one does not start as the others do or has no token to predict.
        """
        if not answers or any(len(row) < 2 or row[0] != answers[0][0] for row in answers):
            raise ValueError("answer candidates: expected at least one, each with [CLS], its tokens and [SEP]")
        depths = max(len(row) for row in answers) - 1
        index: list[dict[tuple[int, ...], int]] = [{} for _ in range(depths)]
        tokens: list[list[int]] = [[] for _ in range(depths)]
        parents: list[list[int]] = [[] for _ in range(depths)]
        nodes = torch.full((len(answers), depths), -1)
        targets = torch.full((len(answers), depths), -1)
        for candidate, row in enumerate(answers):
            node = 0
            for depth in range(len(row) - 1):
                prefix = tuple(row[1 : depth + 1])
                if prefix not in index[depth]:
                    index[depth][prefix] = len(index[depth])
                    tokens[depth].append(row[depth])
                    parents[depth].append(node)
                node = index[depth][prefix]
                nodes[candidate, depth], targets[candidate, depth] = node, row[depth + 1]
        below = [torch.tensor(part) for part in tokens[1:]], [torch.tensor(part) for part in parents[1:]]
        return cls(int(answers[0][0]), below[0], below[1], nodes, targets)

    def to(self, device: torch.device) -> AnswerTree:
        """The same on another device."""
        tokens, parents = [part.to(device) for part in self.tokens], [part.to(device) for part in self.parents]
        return AnswerTree(self.start, tokens, parents, self.nodes.to(device), self.targets.to(device))


def _log_likelihood(decoder: AnswerDecoder, states: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """Log-probability ``(n,)`` of token ``targets (n,)`` after state ``rows (n,)`` of ``states (R, W)``.

    The scores of the whole vocabulary are only summed, a few rows at a time, and never kept.
    """
    head, word = decoder.head, decoder.embeddings.word.weight
    features = head.norm(F.gelu(head.dense(states)))
    total = torch.cat(
        [F.linear(part, word, head.bias).float().logsumexp(dim=-1) for part in features.split(_HEAD_ROWS)]
    )
    own: Tensor = (features[rows] * word[targets]).sum(dim=-1) + head.bias[targets]
    return own.float() - total[rows]


def _first_tokens(decoder: AnswerDecoder, states: Tensor, tree: AnswerTree) -> Tensor:
    """Log-probability ``(B, C)`` of each candidate's first token, from the states ``(B, W)`` of [CLS]."""
    first, which = tree.targets[:, 0].unique(return_inverse=True)
    return F.log_softmax(decoder.word_logits(states).float(), dim=-1)[:, first][:, which]


def _shortlisted(log_p: Tensor, shortlist: int, official_quirks: bool) -> Tensor:
    """Boolean ``(B, C)``: the candidates to score whole."""
    best = log_p.topk(min(shortlist, log_p.shape[1]), dim=1)
    if official_quirks:
        return torch.zeros_like(log_p, dtype=torch.bool).scatter_(1, best.indices, True)
    return log_p >= best.values[:, -1:]


@torch.no_grad()
def rank_answers(
    decoder: AnswerDecoder,
    question_states: Tensor,
    question_mask: Tensor,
    tree: AnswerTree,
    shortlist: int,
    official_quirks: bool,
) -> Tensor:
    """Scores ``(B, C)`` of the candidates, -inf for those not shortlisted by their first token.

    A score is the candidate's log-probability. With ``official_quirks`` the first token counts twice and the shortlist
    is cut
    at ``shortlist`` wherever it falls, as in the official ``rank_answer``; otherwise candidates that share the last
    first token admitted are all kept, since nothing tells them apart yet.

    Args:
        question_states: Fused states ``(B, N, W)``; ``question_mask (B, N)`` their mask.
        tree: On the same device.
        shortlist: Candidates to score whole.
    """
    size, device = question_states.shape[0], question_states.device
    keys_values, seen = decoder.keys_values(question_states), key_mask(question_mask)
    layers = [cast(DecoderLayer, layer) for layer in decoder.layers]
    questions = torch.arange(size, device=device)[:, None]
    shared: KeysValues | None = None  # past (1, n, ...) of every prefix in the first layer, no question's yet
    past: list[KeysValues | None] = [None] * (len(layers) - 1)  # (B, M, ...) in the others
    root = torch.zeros(1, dtype=torch.long, device=device)
    slots = root.expand(size, 1)  # place of every prefix in the grid of its depth
    log_p = scores = chosen = torch.empty(0)  # known after the first token
    for depth, (tokens, parents) in enumerate(
        zip([root + tree.start, *tree.tokens], [root, *tree.parents], strict=True)
    ):
        if depth:
            row, candidate = (chosen & (tree.nodes[:, depth] >= 0)).nonzero(as_tuple=True)
            if not len(row):
                break
            needed = torch.zeros(size, len(tokens), dtype=torch.bool, device=device)
            needed[row, tree.nodes[candidate, depth]] = True
        else:
            needed = torch.ones(size, 1, dtype=torch.bool, device=device)
        counts = needed.sum(dim=1)
        # The grid (B, M): needed prefixes first, in their order; the rest of a row is padding that nobody reads.
        grid = (~needed).int().argsort(dim=1, stable=True)[:, : int(counts.max())]
        parent = slots.gather(1, parents[grid])
        if shared is not None:
            shared = shared[0][:, parents], shared[1][:, parents]
        recalled, shared = layers[0].self_attend(decoder.embed(tokens, depth)[None], shared)
        states = layers[0].cross_attend(recalled[0][grid], keys_values[0], seen)
        for index, layer in enumerate(layers[1:]):
            before = past[index]
            if before is not None:
                before = before[0][questions, parent], before[1][questions, parent]
            states, past[index] = layer.step(states, before, keys_values[index + 1], seen)
        slots = (needed.cumsum(dim=1) - 1).clamp(min=0)
        if depth:
            place = (counts.cumsum(dim=0) - counts)[row] + slots[row, tree.nodes[candidate, depth]]
            filled = states[torch.arange(grid.shape[1], device=device) < counts[:, None]]
            scores[row, candidate] += _log_likelihood(decoder, filled, place, tree.targets[candidate, depth])
        else:
            log_p = _first_tokens(decoder, states[:, 0], tree)
            chosen, scores = _shortlisted(log_p, shortlist, official_quirks), log_p.clone()
    if official_quirks:
        scores = scores + log_p
    return scores.masked_fill(~chosen, -torch.inf)


@torch.no_grad()
def generate(
    decoder: AnswerDecoder,
    question_states: Tensor,
    question_mask: Tensor,
    start: int,
    end: int,
    beams: int,
    max_tokens: int,
) -> list[list[tuple[list[int], float]]]:
    """Free answers by beam search (greedy with one beam).

    Args:
        question_states: ``(B, N, W)``; ``question_mask (B, N)`` their mask.
        start: Id of [CLS]; ``end`` of [SEP].
        max_tokens: Longest answer, without [CLS] and [SEP]. One that has not ended by then is taken as it is.

    Returns:
        For each question up to ``beams`` answers, best first: token ids without [CLS] and [SEP], and log-probability.
    """
    size, device = question_states.shape[0], question_states.device
    keys_values = decoder.keys_values(question_states)
    questions = torch.arange(size, device=device)[:, None]
    tokens = torch.full((size, 1), start, device=device)
    written = torch.empty(size, 1, 0, dtype=torch.long, device=device)
    scores = torch.zeros(size, 1, device=device)
    past: list[KeysValues] | None = None
    done: list[list[tuple[list[int], float]]] = [[] for _ in range(size)]
    for position in range(max_tokens + 1):
        states, past = decoder.step(tokens, position, past, keys_values, question_mask)
        log_p = scores[..., None] + F.log_softmax(decoder.word_logits(states).float(), dim=-1)
        if position == max_tokens:
            _collect(done, written, scores)  # out of room: taken as they are
            break
        ended = log_p[..., end].clone()
        log_p[..., end] = -torch.inf
        if beams == 1:  # greedy: an answer ends where nothing is likelier than its end
            ended = ended.masked_fill(ended < log_p.amax(dim=-1), -torch.inf)
        _collect(done, written, ended)
        best = log_p.flatten(1).topk(min(beams, log_p[0].numel() - log_p.shape[1]), dim=1)
        scores, vocabulary = best.values, log_p.shape[-1]
        parent, tokens = best.indices // vocabulary, best.indices % vocabulary
        written = torch.cat([written[questions, parent], tokens[..., None]], dim=-1)
        past = [(key[questions, parent], value[questions, parent]) for key, value in past]
        if all(_closed(found, beams, float(best_open)) for found, best_open in zip(done, scores[:, 0], strict=True)):
            break
    return [sorted(found, key=lambda answer: -answer[1])[:beams] for found in done]


def _closed(found: list[tuple[list[int], float]], beams: int, best_open: float) -> bool:
    """Whether ``beams`` answers are likelier than the best unfinished one, which by growing only loses probability."""
    return len(found) >= beams and sorted((score for _, score in found), reverse=True)[beams - 1] >= best_open


def _collect(done: list[list[tuple[list[int], float]]], written: Tensor, scores: Tensor) -> None:
    rows, values = written.tolist(), scores.tolist()
    for found, answers, likelihoods in zip(done, rows, values, strict=True):
        found += [(list(a), s) for a, s in zip(answers, likelihoods, strict=True) if a and s > -torch.inf]
