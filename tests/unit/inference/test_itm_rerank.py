"""Tests of ITM re-ranking against scoring one pair at a time."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from albef.inference.itm_rerank import match_image, text_bank
from albef.models.albef import ALBEF
from tests.worlds import tiny_config


@pytest.mark.parametrize("fusion_layers", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [2, 100])
def test_equals_one_pair_at_a_time(fusion_layers: int, batch_size: int) -> None:
    config = tiny_config().model
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, fusion_layers=fusion_layers))
    torch.manual_seed(0)
    model = ALBEF(config, 64, "retrieval").eval()
    lengths = torch.tensor([3, 7, 1, 3, 5, 7, 7, 2, 3])
    mask = (torch.arange(9) < lengths[:, None]).long()
    ids = torch.randint(5, 64, mask.shape)
    bank = text_bank(model, ids, mask, batch_size)
    wanted = torch.tensor([8, 0, 2, 5, 6, 1])
    with torch.no_grad():
        images, _ = model.encode_image(torch.randn(2, 3, 32, 32))
        texts, feats = model.encode_text(ids, mask)
        torch.testing.assert_close(bank.feats, feats)
        for image in images:
            keys_values = model.student.fusion.keys_values(image[None])
            scores = match_image(model, bank, keys_values, wanted, batch_size)
            expected = [model.match(texts[t : t + 1], mask[t : t + 1], image[None])[0] for t in wanted.tolist()]
            assert torch.stack(expected).std() > 1e-3
            torch.testing.assert_close(scores, torch.stack(expected), rtol=1e-4, atol=1e-5)
