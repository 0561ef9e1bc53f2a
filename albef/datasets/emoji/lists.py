"""Official lists of the emoji data set.

Each list has its own random generator.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from albef.config import EmojiConfig
from albef.datasets.emoji.captions import Captioner
from albef.datasets.emoji.hypotheses import HypothesisGenerator
from albef.datasets.emoji.pairs import StatementGenerator
from albef.datasets.emoji.questions import QuestionGenerator, answers, vocabulary
from albef.datasets.emoji.referring import proposals, refer
from albef.datasets.emoji.scenes import Compositions
from albef.datasets.emoji.world import Rows, World

_PARTIAL = 0.25  # fraction of pretraining captions that omit part of the scene
_PARTIAL_TRAIN = 0.1  # the same in retrieval_train
_SYNONYMS = 0.1  # fraction of names replaced by a synonym
_TRAIN_CAPTIONS = 2  # per image in retrieval_train
_QUESTIONS = 2  # per image
# Train lists have more texts per image: varied wording is more useful than repeating the same text over epochs.
_QUESTIONS_TRAIN = 4
_HYPOTHESES_TRAIN = 6  # one in val and test
_STATEMENTS_TRAIN = 4  # one in val and test
_EXPRESSIONS_TRAIN = 2
_VG_FRACTION = 0.15  # of vqa_train in the format of Visual Genome: one answer, no id
_DOWNSTREAM = ("train", "val", "test")


def pretrain(world: World, noise: float) -> Rows:
    """Return one record per image with one to three captions.

    Args:
        noise: Fraction of captions that are corrupted.
    """
    rng = world.rng("pretrain", "captions")
    noise_rng = world.rng("pretrain", "noise")
    captioner = Captioner(world.lexicon, _SYNONYMS)
    clean = [
        [captioner.caption(scene, rng, _PARTIAL) for _ in range(rng.randint(1, 3))]
        for scene in world.scenes["pretrain"]
    ]
    others = [captions[0] for captions in clean]
    result = []
    for image, captions in zip(world.images("pretrain"), clean, strict=True):
        # Every caption takes two draws, so another noise level does not change the remaining captions.
        noisy = []
        for caption in captions:
            caption_rng = Random(noise_rng.getrandbits(64))
            noisy.append(captioner.corrupt(caption, others, caption_rng) if noise_rng.random() < noise else caption)
        result.append({"image": image, "caption": noisy})
    return result


def retrieval(world: World, split: str) -> Rows:
    """Return the retrieval list of a split.

    Train has one row per caption. Val and test have one row per image, with a single full caption.
    """
    rng = world.rng("retrieval", split)
    pairs = zip(world.images(split), world.scenes[split], strict=True)
    if split != "train":
        captioner = Captioner(world.lexicon)
        return [{"image": image, "caption": [captioner.full(scene, rng)]} for image, scene in pairs]
    captioner = Captioner(world.lexicon, _SYNONYMS)
    return [
        {"image": image, "caption": captioner.caption(scene, rng, _PARTIAL_TRAIN), "image_id": number}
        for number, (image, scene) in enumerate(pairs)
        for _ in range(_TRAIN_CAPTIONS)
    ]


def vqa(world: World, split: str, config: EmojiConfig) -> Rows:
    """Return questions with ten answers.

    Part of train has the format of Visual Genome.
    """
    rng = world.rng("vqa", split)
    generator = QuestionGenerator(world.lexicon, Compositions(world.seed), config.max_objects, split)
    result: Rows = []
    for image, scene in zip(world.images(split), world.scenes[split], strict=True):
        for question in generator.generate(scene, _QUESTIONS_TRAIN if split == "train" else _QUESTIONS, rng):
            record: dict[str, Any] = {"question": question.text, "image": image}
            if split == "train" and rng.random() < _VG_FRACTION:
                record |= {"answer": question.answer, "dataset": "vg"}
            else:
                number = len(result) + 1_000_000 * _DOWNSTREAM.index(split)
                record |= {"question_id": number, "answer": answers(question, rng), "dataset": "vqa"}
            result.append(record)
    return result


def entailment(world: World, split: str, config: EmojiConfig) -> Rows:
    """Return hypotheses with balanced labels.

    Images that no form of hypothesis applies to are left out.
    """
    rng = world.rng("ve", split)
    generator = HypothesisGenerator(world.lexicon, Compositions(world.seed), config.max_objects, split)
    result: Rows = []
    for image, scene in zip(world.images(split), world.scenes[split], strict=True):
        labels: dict[str, str] = {}
        for _ in range(_HYPOTHESES_TRAIN if split == "train" else 1):
            if (hypothesis := generator.generate(scene, rng, exclude=labels)) is not None:
                sentence, label = hypothesis
                labels[sentence] = label
        result += [{"image": image, "sentence": sentence, "label": label} for sentence, label in labels.items()]
    return result


def nlvr(world: World, split: str) -> Rows:
    """Return statements about each image and another one; labels are strings."""
    rng = world.rng("nlvr", split)
    images, generator = world.images(split), StatementGenerator(world.lexicon, world.scenes[split])
    result: Rows = []
    for number in (n for n in range(len(images)) for _ in range(_STATEMENTS_TRAIN if split == "train" else 1)):
        if (statement := generator.generate(number, rng)) is not None:
            text, truth, left, right = statement
            result.append({"sentence": text, "label": str(truth), "images": [images[left], images[right]]})
    return result


def grounding(world: World, split: str, boxes: dict[str, dict[str, Any]], side: int) -> Rows:
    """Return referring expressions; boxes of val and test are added to ``boxes``."""
    rng = world.rng("grounding", split)
    result: Rows = []
    for image, scene in zip(world.images(split), world.scenes[split], strict=True):
        if split == "train":
            pairs = [refer(scene, world.lexicon, rng) for _ in range(_EXPRESSIONS_TRAIN)]
            texts = dict.fromkeys(pair[0] for pair in pairs if pair is not None)
            result += [{"image": image, "text": text} for text in texts]
        elif (pair := refer(scene, world.lexicon, rng)) is not None:
            text, box = pair
            number = len(boxes["refs"])
            result.append({"image": image, "text": text, "ref_id": number})
            boxes["refs"][str(number)] = {"image": image, "box": list(box)}
            boxes["proposals"][image] = [list(b) for b in proposals(scene, side, rng)]
    return result


def make(world: World, config: EmojiConfig) -> dict[str, Any]:
    """Return all lists by name, including ``answer_list`` and ``grounding_boxes``.

    ``grounding_boxes`` holds the true box of every ``ref_id`` under ``refs`` and the detected boxes of every image
    under ``proposals``; a box is x, y, width, height in pixels.
    """
    result: dict[str, Any] = {
        "pretrain": pretrain(world, config.caption_noise),
        "answer_list": vocabulary(world.lexicon, config.max_objects),
    }
    boxes: dict[str, dict[str, Any]] = {"refs": {}, "proposals": {}}
    makers: dict[str, Callable[[str], Rows]] = {
        "retrieval": lambda split: retrieval(world, split),
        "vqa": lambda split: vqa(world, split, config),
        "ve": lambda split: entailment(world, split, config),
        "nlvr": lambda split: nlvr(world, split),
        "grounding": lambda split: grounding(world, split, boxes, config.image_size),
    }
    for name, maker in makers.items():
        for split in _DOWNSTREAM:
            result[f"{name}_{split}"] = maker(split)
    result["grounding_boxes"] = boxes
    return result
