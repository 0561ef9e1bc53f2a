"""The benchmarks' two sides give the same scores; their speed is no test's matter."""

from __future__ import annotations

import torch

from benchmarks import evaluate


@torch.no_grad()
def test_evaluation_scores_as_the_plain_loop_does() -> None:
    torch.manual_seed(0)
    for result in (
        evaluate.retrieval(images=6, texts=20, k=4, sample=3),
        evaluate.vqa(images=3, per_image=2, answers=12, k=5, sample=4),
    ):
        assert result.max_difference < 1e-4
        assert result.ours_s > 0 < result.plain_s
