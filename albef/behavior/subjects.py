"""Models under test of each task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from albef.behavior import texts
from albef.behavior.subject import Case, Subject
from albef.data.lists import Rows
from albef.data.schema import NLVR_LABELS, VE_LABELS
from albef.inference.boxes import best_box, iou
from albef.inference.encode import evaluating, words_of
from albef.tasks.classification_eval import ClassificationSet, classify
from albef.tasks.grounding.evaluate import BOXES_FILE, GroundingSet, heat_maps
from albef.tasks.retrieval.evaluate import Images, RetrievalSet, encode_images
from albef.tasks.retrieval.spec import MATCH
from albef.tasks.vqa.evaluate import QuestionSet, answer, kind_of, normalize, read_candidates

_SHORTLIST = 4  # images that retrieval re-ranks
_SAME_BOX = 0.5  # IoU


class Retrieval(Subject):
    """Retrieval: the best image for a caption among those of all cases."""

    task = "retrieval"
    entails = True

    def read(self, rows: Rows) -> list[Case]:
        """Return the first caption of each image."""
        split = RetrievalSet.of(rows)
        first = np.unique(split.image_of_text, return_index=True)[1].tolist()
        return [
            Case(0, (split.images[image],), (split.names[image],), split.texts[text], image)
            for image, text in enumerate(first)
        ]

    @torch.no_grad()
    def predict(self, cases: Sequence[Case]) -> list[Any]:
        """Return the row of the best image.

        The images of ``cases`` replace those of the same rows.
        """
        gallery = [case.images[0] for case in self.cases]
        for case in cases:
            gallery[case.row] = case.images[0]
        with evaluating(self.model, self.config.train):
            images = encode_images(self.model, gallery, self.config.evaluate.batch_size)
            similarity = images.feats @ self._texts(cases)[2].T
            best = similarity.topk(min(_SHORTLIST, len(gallery)), dim=0).indices.cpu()
            texts_of_pairs = [case for case in cases for _ in range(len(best))]
            scores = self._scores(images, best.T.flatten().tolist(), texts_of_pairs)
        rows = torch.from_numpy(scores).view(len(cases), -1).argmax(dim=1)
        found: list[int] = best.T.gather(1, rows[:, None])[:, 0].tolist()
        return found

    def right(self, case: Case, prediction: Any) -> bool:
        """Return whether the image is the caption's own."""
        return bool(prediction == case.row)

    @torch.no_grad()
    def support(self, cases: Sequence[Case]) -> NDArray[np.float32]:
        """Return the score that images are ranked by."""
        gallery = [case.images[0] for case in self.cases]
        with evaluating(self.model, self.config.train):
            images = encode_images(self.model, gallery, self.config.evaluate.batch_size)
            return self._scores(images, [case.row for case in cases], cases)

    def _texts(self, cases: Sequence[Case]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return states, mask and ITC features of texts."""
        ids, mask = words_of([case.text for case in cases], self.encoder, self.config.train, self.model.device)
        states, feats = self.model.encode_text(ids, mask)
        return states, mask, feats

    def _scores(self, images: Images, rows: Sequence[int], cases: Sequence[Case]) -> NDArray[np.float32]:
        """Return the scores of texts with an image each."""
        step, scores = self.config.evaluate.batch_size, []
        for start in range(0, len(cases), step):
            states, mask, feats = self._texts(cases[start : start + step])
            own = torch.tensor(rows[start : start + step], device=feats.device)
            score = self.model.match(states, mask, images.embeds[own])[:, MATCH]
            if self.config.evaluate.score == "itm+itc":
                score = score + (images.feats[own] * feats).sum(dim=1) / self.model.temperature
            scores.append(score.float().cpu())
        return torch.cat(scores).numpy()

    def shown(self, prediction: Any) -> str:
        """Return the path of an image."""
        return str(self.cases[prediction].names[0])


class _Classification(Subject):
    """Task that classifies a text about images."""

    entails = True
    labels: ClassVar[Sequence[str]]
    holding: ClassVar[str]

    def read(self, rows: Rows) -> list[Case]:
        """Return all rows."""
        split = ClassificationSet.of(rows)
        columns = zip(split.images, split.names, split.sentences, split.labels.tolist(), strict=True)
        return [Case(0, images, names, text, self.labels[label]) for images, names, text, label in columns]

    def _probabilities(self, cases: Sequence[Case]) -> NDArray[np.float32]:
        images = {id(image): image for case in cases for image in case.images}  # those of several texts once
        place = {key: number for number, key in enumerate(images)}
        rows = [tuple(place[id(image)] for image in case.images) for case in cases]
        texts_of_rows = [case.text for case in cases]
        return classify(self.model, list(images.values()), rows, texts_of_rows, self.encoder, self.config)

    def predict(self, cases: Sequence[Case]) -> list[Any]:
        """Return the names of the classes."""
        return [self.labels[index] for index in self._probabilities(cases).argmax(axis=1)]

    def support(self, cases: Sequence[Case]) -> NDArray[np.float32]:
        """Return the probability that the text holds."""
        return self._probabilities(cases)[:, list(self.labels).index(self.holding)]

    def holds(self, case: Case) -> bool:
        """Return whether the label says so."""
        return bool(case.truth == self.holding)


class Entailment(_Classification):
    """Visual entailment."""

    task, labels, holding = "entailment", VE_LABELS, "entailment"


class Nlvr2(_Classification):
    """NLVR2."""

    task, labels, holding = "nlvr2", NLVR_LABELS, "True"


class Vqa(Subject):
    """Visual question answering: the best answer."""

    task = "vqa"
    turn = ("opposite answer", "another answer with left and right, above and below exchanged, if yes was right")

    def read(self, rows: Rows) -> list[Case]:
        """Return all questions; the right answer is the most frequent one."""
        split = QuestionSet.of(rows)
        truths = [normalize(Counter(people).most_common(1)[0][0]) if people else None for people in split.people]
        columns = zip(split.images, split.names, split.questions, truths, strict=True)
        return [Case(0, (image,), (name,), text, truth) for image, name, text, truth in columns]

    def predict(self, cases: Sequence[Case]) -> list[Any]:
        """Return normalized answers."""
        candidates = None
        if self.config.evaluate.mode == "rank":
            candidates = read_candidates(self.lists.folder / "answer_list.json")
        images, rows = [case.images[0] for case in cases], [(row,) for row in range(len(cases))]
        questions = [case.text for case in cases]
        found = answer(self.model, images, rows, questions, candidates, self.encoder, self.config)
        return [normalize(best[0][0]) if best else "" for best in found]

    def turned(self, case: Case) -> Case | None:
        """Exchange sides, where "yes" is right: other answers may stay right, or there may be none."""
        text = texts.opposite(case.text)
        return None if text is None or case.truth != "yes" else replace(case, text=text)


KINDS = {"how many": "number", "is": "yes/no", "are": "yes/no", "does": "yes/no", "do": "yes/no", "can": "yes/no"}
"""Kinds of answers by the first words of questions."""


def fits(question: str, prediction: str) -> bool | None:
    """Return whether an answer is of the kind that a question asks for.

    The result is None if that can be any.
    """
    expected = next((kind for start, kind in KINDS.items() if question.startswith(f"{start} ")), None)
    if expected is None or (expected == "yes/no" and " or " in question):
        return None
    return bool(prediction) and kind_of([prediction]) == expected


class Grounding(Subject):
    """Grounding: the best proposal."""

    task = "grounding"
    turn = ("other thing", "another object for 'the dog right of the cat' than for 'the cat left of the dog'")
    refers = True

    def read(self, rows: Rows) -> list[Case]:
        """Return all expressions."""
        split = GroundingSet.of(rows, self.lists.folder / BOXES_FILE)
        columns = zip(split.images, split.names, split.texts, split.boxes, split.proposals, strict=True)
        return [Case(0, (image,), (name,), text, box, tuple(boxes)) for image, name, text, box, boxes in columns]

    def predict(self, cases: Sequence[Case]) -> list[Any]:
        """Return the indices of the proposals."""
        images, sentences = [case.images[0] for case in cases], [case.text for case in cases]
        maps, sizes = heat_maps(self.model, images, sentences, self.encoder, self.config)
        columns = zip(maps, sizes, cases, strict=True)
        return [best_box(heat, *size, [box[:4] for box in case.boxes]) for heat, size, case in columns]

    def right(self, case: Case, prediction: Any) -> bool:
        """Return whether the proposal overlaps with the true box."""
        return iou(case.boxes[prediction], case.truth) >= _SAME_BOX

    def same(self, case: Case, first: Any, second: Any) -> bool:
        """Return whether the proposals overlap."""
        return iou(case.boxes[first], case.boxes[second]) >= _SAME_BOX

    def turned(self, case: Case) -> Case | None:
        """Refer to the other thing of a relation."""
        text = texts.inverted(case.text)
        return None if text is None else replace(case, text=text)

    def shown(self, prediction: Any) -> str:
        """Return the number of the proposal."""
        return f"proposal {prediction}"


SUBJECTS: dict[str, type[Subject]] = {each.task: each for each in (Retrieval, Vqa, Entailment, Nlvr2, Grounding)}
"""Tasks with behavioral tests."""
