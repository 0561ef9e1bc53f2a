"""Pseudo-targets of momentum distillation for a few pretraining pairs (figure 2 of the paper)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from albef.config import PretrainConfig
from albef.data.lists import Rows
from albef.inference.encode import pixels_of
from albef.models.albef import ALBEF
from albef.tasks.job import spaced
from albef.tasks.texts import FUNCTION_WORDS

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

_TOP = 5
_PAIRS = 6
_TEXTS = 256  # among which the teacher ranks; in training, those of the batch and the queue


@torch.no_grad()
def pseudo_targets(model: ALBEF, rows: Rows, encoder: Encoder, config: PretrainConfig) -> list[dict[str, Any]]:
    """Return the teacher's distributions that the student learned from, next to the given words and captions.

    For each pair: ``words`` are the most probable ones in place of a masked word of the caption, ``texts`` the captions
    most similar to the image, with their probability among some captions of the list.

    Args:
        model: Pretrained model with its teacher.
        rows: Pretraining list.
    """
    records = [rows[row] for row in spaced(len(rows), _TEXTS)]
    captions = [[r["caption"]] if isinstance(r["caption"], str) else r["caption"] for r in records]
    encoded = encoder.encode_batch(
        [texts[0] for texts in captions], max_tokens=config.max_tokens, max_words=config.max_words
    )
    ids, mask = (torch.from_numpy(each).to(model.device) for each in encoded)
    teacher, tokenizer = model.teacher, encoder.tokenizer
    text_feats = teacher.encode_text(ids, mask)[1]
    result = []
    for number, place in enumerate(spaced(len(records), _PAIRS)):
        tokens = [str(tokenizer.id_to_token(index)) for index in ids[place, : int(mask[place].sum())].tolist()]
        positions = _maskable(tokens)
        if not positions:
            continue
        position = positions[number % len(positions)]
        image = rows.store.find(records[place]["image"])
        embeds, feat = teacher.encode_image(pixels_of([image], model.config.image_size).to(model.device))
        own, own_mask = ids[place : place + 1].clone(), mask[place : place + 1]
        own[0, position] = encoder.mask
        states = teacher.fusion(teacher.text(own, own_mask), own_mask, teacher.fusion.keys_values(embeds))
        words = teacher.word_logits(states[0, position]).softmax(dim=-1).topk(_TOP)
        fit = ((feat @ text_feats.T)[0] / model.temperature).softmax(dim=-1)
        texts = fit.topk(min(_TOP, len(fit)))
        shown = own[0, 1 : len(tokens)].tolist()
        result.append(
            {
                "image": records[place]["image"],
                "text": tokenizer.decode(shown, skip_special_tokens=False),
                "word": tokens[position],
                "words": [
                    [str(tokenizer.id_to_token(index)), round(p, 4)]
                    for index, p in zip(words.indices.tolist(), words.values.tolist(), strict=True)
                ],
                "captions": captions[place],
                "texts": [
                    [captions[index][0], round(p, 4)]
                    for index, p in zip(texts.indices.tolist(), texts.values.tolist(), strict=True)
                ],
            }
        )
    return result


def _maskable(tokens: list[str]) -> list[int]:
    """Return the positions of whole words that name a thing or a property.

    Without any, all tokens but the first may be masked.
    """
    whole = [
        at
        for at, token in enumerate(tokens)
        if at and not token.startswith("##") and not (at + 1 < len(tokens) and tokens[at + 1].startswith("##"))
    ]
    named = [at for at in whole if tokens[at] not in FUNCTION_WORDS and tokens[at].isalpha()]
    return named or list(range(1, len(tokens)))
