"""VQA endpoint: an image and a question in, answers with probabilities out.

Answers are ranked or generated as in `albef.inference.answer_search`, with the exported decoder.

B = questions of a request, C = candidates of a question, A = answer tokens, L = text tokens, W = width, V = vocabulary,
k = answers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from albef.data.tokenizer import Encoder
from albef.serving import metrics, protocol
from albef.serving.endpoint import Endpoint
from albef.serving.endpoint_values import Array, QueryError, check_choices, constant, has, padded, softmax, values_of
from albef.tasks.vqa import spec

Answers = list[tuple[str, float]]
"""Answers with probabilities, best first."""


class Candidates:
    """Tokenized answers to choose from, with [CLS] and [SEP].

    ``ids`` and ``mask`` have the shape ``(C, A)``.

    Args:
        max_tokens: Length that answers are truncated to; unlimited if None.
    """

    def __init__(self, answers: Sequence[str], encoder: Encoder, max_tokens: int | None = None) -> None:
        self.answers = answers
        self.ids, self.mask = encoder.encode_batch(answers, max_tokens=max_tokens, end=True)


class TritonPythonModel(Endpoint):
    """VQA endpoint."""

    task = spec.SPEC

    def initialize(self, args: dict[str, str]) -> None:
        """Load the endpoint and tokenize the default candidates."""
        super().initialize(args)
        answers = json.loads((self.folder / spec.ANSWERS_FILE).read_text(encoding="utf-8"))
        self.default_candidates = Candidates(answers, self.encoder)

    async def answer(self, request: Any) -> dict[str, Array]:
        """Return answers (bytes) and probabilities, both ``(B, k)``."""
        k = self.read_k(request, spec.DEFAULT_K)
        generate = bool(constant(request, spec.GENERATE, self.settings.generate))
        candidates = None
        if has(request, spec.CANDIDATES):
            if generate:
                raise QueryError(f"give '{spec.CANDIDATES}' or '{spec.GENERATE}', not both", spec.CANDIDATES)
            candidates = await asyncio.to_thread(self.read_candidates, request)  # thousands take a while
        words = self.tokenize(self.texts(request))
        (embeds,), _ = await self.run_vision(request, [protocol.IMAGE_EMBEDS])
        feeds = {protocol.IMAGE_EMBEDS: embeds, **words}
        (states,) = await self.infer(spec.QUESTION_GRAPH, feeds, [protocol.QUESTION_STATES])
        mask = words[protocol.ATTENTION_MASK]
        questions = [
            {protocol.QUESTION_STATES: states[row : row + 1], protocol.ATTENTION_MASK: mask[row : row + 1]}
            for row in range(len(states))
        ]
        if generate:
            results = await asyncio.gather(*(self.generate(question) for question in questions))
        else:
            pairs = zip(questions, candidates or [self.default_candidates] * len(questions), strict=True)
            results = await asyncio.gather(*(self.rank(question, choices, k) for question, choices in pairs))
        results = [answers[:k] for answers in results]
        return {
            spec.ANSWERS: padded(([a.encode() for a, _ in row] for row in results), b"", np.object_),
            protocol.PROBABILITIES: padded(([p for _, p in row] for row in results), 0.0, np.float32),
        }

    def read_candidates(self, request: Any) -> list[Candidates]:
        """Return the candidates of each row.

        Raises:
            QueryError: If there are too many, or one is too long or empty.
        """
        name, max_bytes = spec.CANDIDATES, spec.MAX_CANDIDATE_BYTES
        check_choices(request, name, self.settings.max_candidates)
        values = values_of(request, name)
        assert values is not None
        if (size := sum(map(len, values.reshape(-1)))) > max_bytes:
            raise QueryError(f"'{name}' has {size} bytes, expected at most {max_bytes}", name)
        rows = [list(dict.fromkeys(self.text(value, name) for value in row)) for row in values]
        limit = self.settings.max_tokens
        # One token above the limit suffices to detect long answers; without truncation all would be padded to the
        # longest.
        candidates = [Candidates(answers, self.encoder, limit + 1) for answers in rows]
        if any(each.ids.shape[1] > limit for each in candidates):
            raise QueryError(f"'{name}': an answer has more than {limit - 2} tokens", name)
        return candidates

    async def decode(self, question: dict[str, Array], ids: Array, mask: Array, output: str) -> Array:
        """Return an output of the decoder for one question.

        Args:
            question: States ``(1, L, W)`` and mask ``(1, L)``.
            ids, mask: Candidates ``(C, A)``.
        """
        feeds = {**question, protocol.ANSWER_IDS: ids[None], protocol.ANSWER_MASK: mask[None]}
        (result,) = await self.infer(spec.DECODER_GRAPH, feeds, [output])
        first: Array = result[0]
        return first

    async def rank(self, question: dict[str, Array], candidates: Candidates, k: int) -> Answers:
        """Return the ``k`` best candidates; probabilities sum to 1 over the shortlist."""
        start = np.array([[self.encoder.cls, self.encoder.pad]])
        first = await self.decode(question, start, np.array([[1, 0]]), protocol.NEXT_LOG_PROBS)
        log_p = first[candidates.ids[:, 1]]
        size = min(self.settings.shortlist, len(log_p))
        # Ties at the cut share their first token and cannot be ordered yet, so all of them are kept.
        order = np.argsort(-log_p, kind="stable")
        rows = order[:size] if self.settings.official_quirks else np.flatnonzero(log_p >= log_p[order[size - 1]])
        length = int(candidates.mask[rows].sum(axis=1).max())
        ids, mask = candidates.ids[rows, :length], candidates.mask[rows, :length]
        step = self.settings.batch_size
        batches = await asyncio.gather(
            *(
                self.decode(question, ids[at : at + step], mask[at : at + step], spec.TOKEN_LOG_PROBS)
                for at in range(0, len(rows), step)
            )
        )
        self.count(metrics.SHORTLISTED, len(rows))
        self.count(metrics.SHORTLISTS)
        scores = np.concatenate(batches).sum(axis=1)
        if self.settings.official_quirks:
            scores = scores + log_p[rows]
        probabilities = softmax(scores)
        best = np.argsort(-probabilities, kind="stable")[:k]
        return [(candidates.answers[rows[at]], float(probabilities[at])) for at in best]

    async def generate(self, question: dict[str, Array]) -> Answers:
        """Generate answers by beam search (greedy with one beam)."""
        beams, limit, end = self.settings.beams, self.settings.max_answer_tokens, self.encoder.sep
        written: Array = np.zeros((1, 0), dtype=np.int64)
        scores: Array = np.zeros(1)
        done: list[tuple[tuple[int, ...], float]] = []
        for position in range(limit + 1):
            log_p = scores[:, None] + await self.next_log_probs(question, written)
            if position == limit:  # maximum length: keep unfinished answers
                done += zip(map(tuple, written), scores, strict=True)
                break
            ended = log_p[:, end].copy()
            log_p[:, end] = -np.inf
            if beams == 1:  # greedy: end only if no other token is more likely than [SEP]
                ended[ended < log_p.max(axis=1)] = -np.inf
            done += [(tuple(w), s) for w, s in zip(written, ended, strict=True) if len(w) and s > -np.inf]
            best = np.argsort(-log_p.reshape(-1), kind="stable")[: min(beams, log_p.size - len(log_p))]
            parents, tokens = np.divmod(best, log_p.shape[1])
            scores = log_p.reshape(-1)[best]
            written = np.concatenate([written[parents], tokens[:, None]], axis=1)
            # The log-probability of an answer only decreases as it grows.
            if len(done) >= beams and sorted((s for _, s in done), reverse=True)[beams - 1] >= scores[0]:
                break
        done.sort(key=lambda answer: -answer[1])
        return [(self.encoder.tokenizer.decode(list(map(int, w))), float(np.exp(s))) for w, s in done[:beams]]

    async def next_log_probs(self, question: dict[str, Array], written: Array) -> Array:
        """Return log-probabilities ``(n, V)`` of the token after each unfinished answer.

        Args:
            written: Unfinished answers ``(n, A)``, without [CLS].
        """
        count = len(written)
        ids = np.full((count, written.shape[1] + 2), self.encoder.pad)
        ids[:, 0], ids[:, 1:-1] = self.encoder.cls, written
        mask = np.ones_like(ids)
        mask[:, -1] = 0
        feeds = {
            protocol.QUESTION_STATES: np.repeat(question[protocol.QUESTION_STATES], count, axis=0),
            protocol.ATTENTION_MASK: np.repeat(question[protocol.ATTENTION_MASK], count, axis=0),
            protocol.ANSWER_IDS: ids[:, None],
            protocol.ANSWER_MASK: mask[:, None],
        }
        (result,) = await self.infer(spec.DECODER_GRAPH, feeds, [protocol.NEXT_LOG_PROBS])
        return result.astype(np.float64)
