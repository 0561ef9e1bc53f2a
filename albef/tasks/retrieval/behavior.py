"""Retrieval under behavioral tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from albef.data.lists import Rows
from albef.inference.encode import evaluating, words_of
from albef.tasks.behavior import Case, Scored
from albef.tasks.retrieval.evaluate import Images, RetrievalSet, encode_images
from albef.tasks.retrieval.spec import MATCH

_SHORTLIST = 4  # images that the model re-ranks


class Behavior(Scored):
    """Retrieval: the best image for a caption among those of all cases."""

    task = "retrieval"

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
