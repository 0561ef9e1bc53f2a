"""Tests of retrieval evaluation: re-ranking and recalls."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from albef.data.images import load_image, to_pixels
from albef.data.lists import Images, read_rows
from albef.data.tokenizer import Encoder
from albef.models.albef import ALBEF
from albef.tasks.retrieval.evaluate import NOT_SHORTLISTED, RetrievalSet, evaluate, recalls
from albef.tasks.retrieval.spec import RerankConfig
from tests.worlds import color_world, tiny_config


def test_recalls_by_hand() -> None:
    # Image 0 has texts 0 and 1, image 1 has text 2. Text 1 leads for both images.
    scores = np.array([[0.1, 0.9, 0.3], [0.2, 0.8, 0.5]], dtype=np.float32)
    result = recalls(scores, np.array([0, 0, 1]))
    assert result["tr_r1"] == 0.5
    assert result["tr_r5"] == 1.0
    # Text 1's best image is image 0; text 0's is image 1, which is not its own.
    assert result["ir_r1"] == pytest.approx(2 / 3)


def test_equal_scores_are_no_success() -> None:
    scores = np.zeros((20, 20), dtype=np.float32)
    assert recalls(scores, np.arange(20))["tr_r10"] == 0.0


@pytest.mark.parametrize("score", ["itm", "itm+itc"])
def test_rerank_equals_a_loop_over_pairs(tmp_path: Path, score: Literal["itm", "itm+itc"]) -> None:
    world = color_world(tmp_path / "world", images=24)
    config = tiny_config()
    rerank = RerankConfig(shortlist=5, score=score, batch_size=8)
    task = dataclasses.replace(config.tasks.retrieval, evaluate=rerank)
    encoder = Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    torch.manual_seed(0)
    model = ALBEF(config.model, encoder.vocab_size, "retrieval")
    split = RetrievalSet.of(read_rows(world / "lists" / "retrieval_test.json", Images(world)))
    result = evaluate(model, split, encoder, task)
    assert model.training

    model.eval()
    count = len(split.images)
    with torch.no_grad():
        pixels = torch.from_numpy(np.stack([to_pixels(load_image(p), 32) for p in split.images]))
        embeds, feats = model.encode_image(pixels)
        ids, mask = (torch.from_numpy(a) for a in encoder.encode_batch(split.texts, max_tokens=30, max_words=30))
        texts, text_feats = model.encode_text(ids, mask)
        similarity = feats @ text_feats.T
        for image in range(count):
            best = similarity[image].topk(5).indices.tolist()
            for text in range(count):
                expected = NOT_SHORTLISTED
                if text in best:
                    logits = model.match(texts[text : text + 1], mask[text : text + 1], embeds[image : image + 1])
                    expected = float(logits[0, 1])
                    if score == "itm+itc":
                        expected += float(similarity[image, text] / model.temperature)
                assert result.image_to_text[image, text] == pytest.approx(expected, abs=2e-5)
        assert ((result.text_to_image > NOT_SHORTLISTED).sum(axis=0) == 5).all()


def test_shortlist_larger_than_the_corpus(tmp_path: Path) -> None:
    world = color_world(tmp_path / "world", images=8)
    encoder = Encoder.from_file(world / "tokenizer" / "tokenizer.json")
    config = tiny_config()
    model = ALBEF(config.model, encoder.vocab_size, "retrieval")
    split = RetrievalSet.of(read_rows(world / "lists" / "retrieval_test.json", Images(world)))
    result = evaluate(model, split, encoder, config.tasks.retrieval)
    assert (result.image_to_text > NOT_SHORTLISTED).all()
