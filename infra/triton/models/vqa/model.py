"""The VQA endpoint: a picture and a question in, answers with probabilities out.

Answers are ranked as `albef.model.answers.rank_answers` does, or written by beam search as its ``generate`` does, here
over the exported decoder. What it imports from ``albef`` lies beside this file.
"""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np

from albef.serving import contract, metrics
from albef.serving.endpoint import Endpoint, QueryError, constant, padded, softmax, values_of


class Candidates:
    """Answers to choose from, as token ids with [CLS] and [SEP], cut to ``max_tokens``."""

    def __init__(self, answers, encoder, max_tokens=None):
        self.answers = answers
        self.ids, self.mask = encoder.encode_batch(answers, max_tokens=max_tokens, end=True)


class TritonPythonModel(Endpoint):
    """One instance of the endpoint."""

    spec, settings_type = contract.VQA, contract.VqaSettings

    def initialize(self, args):
        """Encode the answers of the task."""
        super().initialize(args)
        answers = json.loads((self.folder / contract.ANSWERS_FILE).read_text(encoding="utf-8"))
        self.known = Candidates(answers, self.encoder)

    async def answer(self, request):
        """Answers (bytes) and probabilities, both ``(B, k)``."""
        k = self.count(request, contract.DEFAULT_ANSWERS)
        generate = bool(constant(request, contract.ENDPOINT_GENERATE, self.settings.generate))
        candidates = self.candidates(request)
        if generate and candidates is not None:
            one, other = contract.ENDPOINT_CANDIDATES, contract.ENDPOINT_GENERATE
            raise QueryError(f"give '{one}' or '{other}', not both", one)
        words = self.words(self.texts(request))
        (embeds,), _ = await self.look(request, [contract.IMAGE_EMBEDS])
        feeds = {contract.IMAGE_EMBEDS: embeds, **words}
        (states,) = await self.infer(contract.QUESTION, feeds, [contract.QUESTION_STATES])
        mask = words[contract.ATTENTION_MASK]
        questions = [
            {contract.QUESTION_STATES: states[row : row + 1], contract.ATTENTION_MASK: mask[row : row + 1]}
            for row in range(len(states))
        ]
        if generate:
            found = await asyncio.gather(*(self.write(question) for question in questions))
        else:
            lists = candidates or [self.known] * len(questions)
            pairs = zip(questions, lists, strict=True)
            found = await asyncio.gather(*(self.rank(question, answers, k) for question, answers in pairs))
        found = [answers[:k] for answers in found]
        return {
            contract.ENDPOINT_ANSWERS: padded(([a.encode() for a, _ in row] for row in found), b"", np.object_),
            contract.ENDPOINT_PROBABILITIES: padded(([p for _, p in row] for row in found), 0.0, np.float32),
        }

    def candidates(self, request):
        """The request's own answers to choose from, a list a row; None where it has none.

        Raises:
            QueryError: If they are too many or too long, or one is empty.
        """
        given = values_of(request, contract.ENDPOINT_CANDIDATES)
        if given is None:
            return None
        name = contract.ENDPOINT_CANDIDATES
        if not 1 <= given.shape[1] <= contract.MAX_CANDIDATES:
            raise QueryError(f"'{name}' holds {given.shape[1]} answers, expected 1 to {contract.MAX_CANDIDATES}", name)
        most = contract.MAX_CANDIDATE_BYTES
        if (size := max(sum(map(len, row)) for row in given)) > most:
            raise QueryError(f"'{name}' has {size} bytes in a row, expected at most {most}", name)
        lists = [list(dict.fromkeys(self.text(value, name) for value in row)) for row in given]
        limit = self.settings.max_tokens
        # One token more than allowed is enough to tell; all of them would be padded to the longest.
        made = [Candidates(answers, self.encoder, limit + 1) for answers in lists]
        if any(each.ids.shape[1] > limit for each in made):
            raise QueryError(f"'{name}': an answer has more than {limit - 2} tokens", name)
        return made

    async def decode(self, question, ids, mask, output):
        """One output of the decoder for a question with candidates ``(C, A)``."""
        feeds = {**question, contract.ANSWER_IDS: ids[None], contract.ANSWER_MASK: mask[None]}
        (found,) = await self.infer(contract.DECODER, feeds, [output])
        return found[0]

    async def rank(self, question, candidates, k):
        """The best of some answers with their probabilities over the shortlist, best first."""
        start = np.array([[self.encoder.cls, self.encoder.pad]])
        first = await self.decode(question, start, np.array([[1, 0]]), contract.NEXT_LOG_PROBS)
        log_p = first[candidates.ids[:, 1]]
        size = min(self.settings.shortlist, len(log_p))
        # Answers that share the last first token admitted are all kept: nothing tells them apart yet.
        order = np.argsort(-log_p, kind="stable")
        rows = order[:size] if self.settings.faithful else np.flatnonzero(log_p >= log_p[order[size - 1]])
        length = int(candidates.mask[rows].sum(axis=1).max())
        ids, mask = candidates.ids[rows, :length], candidates.mask[rows, :length]
        step = self.settings.batch_size
        parts = await asyncio.gather(
            *(
                self.decode(question, ids[at : at + step], mask[at : at + step], contract.TOKEN_LOG_PROBS)
                for at in range(0, len(rows), step)
            )
        )
        self.meter.add(metrics.SHORTLISTED, len(rows))
        self.meter.add(metrics.SHORTLISTS)
        scores = np.concatenate(parts).sum(axis=1)
        if self.settings.faithful:
            scores = scores + log_p[rows]
        probabilities = softmax(scores)
        best = np.argsort(-probabilities, kind="stable")[:k]
        return [(candidates.answers[rows[at]], float(probabilities[at])) for at in best]

    async def write(self, question):
        """Answers by beam search with their probabilities, best first."""
        beams, limit, end = self.settings.beams, self.settings.max_answer_tokens, self.encoder.sep
        written, scores = np.zeros((1, 0), dtype=np.int64), np.zeros(1)
        done = []
        for position in range(limit + 1):
            log_p = scores[:, None] + await self.next(question, written)
            if position == limit:  # out of room: taken as they are
                done += zip(map(tuple, written), scores, strict=True)
                break
            ended = log_p[:, end].copy()
            log_p[:, end] = -np.inf
            if beams == 1:  # greedy: an answer ends where nothing is likelier than its end
                ended[ended < log_p.max(axis=1)] = -np.inf
            done += [(tuple(w), s) for w, s in zip(written, ended, strict=True) if len(w) and s > -np.inf]
            best = np.argsort(-log_p.reshape(-1), kind="stable")[: min(beams, log_p.size - len(log_p))]
            parents, tokens = np.divmod(best, log_p.shape[1])
            scores = log_p.reshape(-1)[best]
            written = np.concatenate([written[parents], tokens[:, None]], axis=1)
            # By growing, an unfinished answer only loses probability.
            if len(done) >= beams and sorted((s for _, s in done), reverse=True)[beams - 1] >= scores[0]:
                break
        done.sort(key=lambda answer: -answer[1])
        return [(self.encoder.tokenizer.decode(list(map(int, w))), float(np.exp(s))) for w, s in done[:beams]]

    async def next(self, question, written):
        """Log-probabilities ``(n, V)`` of what follows each of ``written (n, A)``."""
        count = len(written)
        ids = np.full((count, written.shape[1] + 2), self.encoder.pad)
        ids[:, 0], ids[:, 1:-1] = self.encoder.cls, written
        mask = np.ones_like(ids)
        mask[:, -1] = 0
        feeds = {
            contract.QUESTION_STATES: np.repeat(question[contract.QUESTION_STATES], count, axis=0),
            contract.ATTENTION_MASK: np.repeat(question[contract.ATTENTION_MASK], count, axis=0),
            contract.ANSWER_IDS: ids[:, None],
            contract.ANSWER_MASK: mask[:, None],
        }
        (found,) = await self.infer(contract.DECODER, feeds, [contract.NEXT_LOG_PROBS])
        return found.astype(np.float64)
