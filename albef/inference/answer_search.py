"""Answer search: candidate ranking and free generation (paper section 5).

B = questions, C = candidates, M = answer prefixes per question, L = tokens, V = vocabulary.

Candidates are scored along their prefix tree. A prefix shared by several candidates is computed once per question, each
token once, and question states are projected once. The part of a prefix that does not depend on the question, up to the
first cross-attention, is computed once for all questions. The scores equal those of a full pass over every pair.
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
from albef.models.precision import full_precision

_HEAD_ROWS = 512
"""Rows whose vocabulary logits are held in memory at once."""


@dataclass(frozen=True)
class AnswerTree:
    """Prefix tree of answer candidates.

    The root is [CLS]; depth d holds the prefixes of d tokens.

    Attributes:
        start: Id of [CLS].
        tokens: Last token ``(n,)`` of each prefix, by depth from 1.
        parents: Parent node ``(n,)`` of each prefix, by depth from 1.
        nodes: ``(C, depths + 1)``: node of each candidate at each depth, -1 beyond its end.
        targets: ``(C, depths + 1)``: token after each prefix; [SEP] at the candidate's end, -1 beyond.
    """

    start: int
    tokens: list[Tensor]
    parents: list[Tensor]
    nodes: Tensor
    targets: Tensor

    @classmethod
    def build(cls, answers: Sequence[Sequence[int]]) -> AnswerTree:
        """Build the tree.

        Args:
            answers: Token ids of each candidate, [CLS] first and [SEP] last.

        Raises:
            ValueError: If there is no candidate, or one has a different first token or no token to predict.
        """
        if not answers or any(len(row) < 2 or row[0] != answers[0][0] for row in answers):
            raise ValueError("answer candidates: expected at least one, each as [CLS], its tokens and [SEP]")
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
        token_ids, parent_nodes = ([torch.tensor(part) for part in levels[1:]] for levels in (tokens, parents))
        return cls(int(answers[0][0]), token_ids, parent_nodes, nodes, targets)

    def to(self, device: torch.device) -> AnswerTree:
        """Return a copy on another device."""
        tokens, parents = [part.to(device) for part in self.tokens], [part.to(device) for part in self.parents]
        return AnswerTree(self.start, tokens, parents, self.nodes.to(device), self.targets.to(device))


def _log_likelihood(decoder: AnswerDecoder, states: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """Return log-probabilities ``(n,)`` of tokens after the given states.

    Vocabulary logits are reduced a few rows at a time to limit memory.

    Args:
        states: ``(R, W)``.
        rows: Row ``(n,)`` of ``states`` for each target.
        targets: Token ids ``(n,)``.
    """
    head, word = decoder.head, decoder.embeddings.word.weight
    with full_precision(states):
        features = head.norm(F.gelu(head.dense(states.float())))
        total = torch.cat([F.linear(part, word, head.bias).logsumexp(dim=-1) for part in features.split(_HEAD_ROWS)])
        logits: Tensor = (features[rows] * word[targets]).sum(dim=-1) + head.bias[targets]
        return logits - total[rows]


def _log_probabilities(decoder: AnswerDecoder, states: Tensor) -> Tensor:
    """Return log-probabilities ``(..., V)`` of the token after states ``(..., W)``."""
    with full_precision(states):
        return F.log_softmax(decoder.word_logits(states.float()), dim=-1)


def _first_tokens(decoder: AnswerDecoder, states: Tensor, tree: AnswerTree) -> Tensor:
    """Return the log-probability ``(B, C)`` of each candidate's first token.

    Args:
        states: Decoder states ``(B, W)`` of [CLS].
    """
    first, inverse = tree.targets[:, 0].unique(return_inverse=True)
    return _log_probabilities(decoder, states)[:, first][:, inverse]


def _shortlisted(log_p: Tensor, shortlist: int, official_quirks: bool) -> Tensor:
    """Return a boolean ``(B, C)``, True for candidates to score completely."""
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
    """Return scores ``(B, C)`` of the candidates, -inf outside the shortlist.

    Candidates are shortlisted by the probability of their first token. A score is the candidate's log-probability.

    Args:
        question_states: Fused states ``(B, N, W)``.
        question_mask: 0/1 mask ``(B, N)``.
        tree: Candidates.
        shortlist: Number of candidates to score completely.
        official_quirks: As the official ``rank_answer``, count the first token twice and cut the shortlist at exactly
            ``shortlist`` candidates. Otherwise ties at the cut, candidates with the same first token, are all kept.
    """
    size, device = question_states.shape[0], question_states.device
    tree = tree.to(device)
    keys_values, mask = decoder.keys_values(question_states), key_mask(question_mask)
    layers = [cast(DecoderLayer, layer) for layer in decoder.layers]
    questions = torch.arange(size, device=device)[:, None]
    shared: KeysValues | None = None  # cache (1, n, ...) of the first layer, independent of the question
    past: list[KeysValues | None] = [None] * (len(layers) - 1)  # cache (B, M, ...) of the other layers
    root = torch.zeros(1, dtype=torch.long, device=device)
    slots = root.expand(size, 1)  # column of each prefix in the grid of its depth
    log_p = scores = chosen = torch.empty(0)  # assigned at depth 0
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
        # Grid (B, M) of needed prefixes, in order; the remaining columns of a row are padding.
        grid = (~needed).int().argsort(dim=1, stable=True)[:, : int(counts.max())]
        parent = slots.gather(1, parents[grid])
        if shared is not None:
            shared = shared[0][:, parents], shared[1][:, parents]
        attended, shared = layers[0].self_attend(decoder.embed(tokens, depth)[None], shared)
        states = layers[0].cross_attend(attended[0][grid], keys_values[0], mask)
        for index, layer in enumerate(layers[1:]):
            cache = past[index]
            if cache is not None:
                cache = cache[0][questions, parent], cache[1][questions, parent]
            states, past[index] = layer.step(states, cache, keys_values[index + 1], mask)
        slots = (needed.cumsum(dim=1) - 1).clamp(min=0)
        if depth:
            state_rows = (counts.cumsum(dim=0) - counts)[row] + slots[row, tree.nodes[candidate, depth]]
            unpadded = states[torch.arange(grid.shape[1], device=device) < counts[:, None]]
            scores[row, candidate] += _log_likelihood(decoder, unpadded, state_rows, tree.targets[candidate, depth])
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
    """Generate answers by beam search (greedy with one beam).

    Args:
        question_states: Fused states ``(B, N, W)``.
        question_mask: 0/1 mask ``(B, N)``.
        start: Id of [CLS].
        end: Id of [SEP].
        beams: Beam width and number of answers.
        max_tokens: Maximum answer length, without [CLS] and [SEP]. Unfinished answers of this length are kept as is.

    Returns:
        Up to ``beams`` answers per question, best first: token ids without [CLS] and [SEP], and log-probability.
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
        log_p = scores[..., None] + _log_probabilities(decoder, states)
        if position == max_tokens:
            _collect(done, written, scores)  # maximum length: keep unfinished answers
            break
        ended = log_p[..., end].clone()
        log_p[..., end] = -torch.inf
        if beams == 1:  # greedy: end only if no other token is more likely than [SEP]
            ended = ended.masked_fill(ended < log_p.amax(dim=-1), -torch.inf)
        _collect(done, written, ended)
        best = log_p.flatten(1).topk(min(beams, log_p[0].numel() - log_p.shape[1]), dim=1)
        scores, vocabulary = best.values, log_p.shape[-1]
        parent, tokens = best.indices // vocabulary, best.indices % vocabulary
        written = torch.cat([written[questions, parent], tokens[..., None]], dim=-1)
        past = [(key[questions, parent], value[questions, parent]) for key, value in past]
        if all(_finished(answers, beams, float(best)) for answers, best in zip(done, scores[:, 0], strict=True)):
            break
    return [sorted(answers, key=lambda answer: -answer[1])[:beams] for answers in done]


def _finished(answers: list[tuple[list[int], float]], beams: int, best_open: float) -> bool:
    """Return whether no unfinished answer can enter the best ``beams``.

    The log-probability of an answer only decreases as it grows, so ``best_open`` bounds all unfinished ones.
    """
    return len(answers) >= beams and sorted((score for _, score in answers), reverse=True)[beams - 1] >= best_open


def _collect(done: list[list[tuple[list[int], float]]], written: Tensor, scores: Tensor) -> None:
    """Append non-empty answers with finite scores to ``done``, by question."""
    for answers, rows, values in zip(done, written.tolist(), scores.tolist(), strict=True):
        answers += [(list(row), score) for row, score in zip(rows, values, strict=True) if row and score > -torch.inf]
