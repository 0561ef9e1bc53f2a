"""The official lists of the built-in world, each from its scenes and a generator of its own."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from albef.config import EmojiConfig
from albef.datasets.emoji.captions import Captioner
from albef.datasets.emoji.hypotheses import HypothesisGenerator
from albef.datasets.emoji.pairs import Comparer
from albef.datasets.emoji.questions import QuestionGenerator, answers, vocabulary
from albef.datasets.emoji.referring import proposals, refer
from albef.datasets.emoji.scenes import Compositions
from albef.datasets.emoji.world import Rows, World

_PARTIAL = 0.25  # share of pretraining captions that leave something out
_PARTIAL_TRAIN = 0.1
_SYNONYMS = 0.1
_TRAIN_CAPTIONS = 2  # rows an image in retrieval_train
_QUESTIONS = 2  # an image
# More texts of the same pictures in training: other words teach more than the same ones once again.
_QUESTIONS_TRAIN = 4
_HYPOTHESES_TRAIN = 6  # val and test have one
_STATEMENTS_TRAIN = 4  # about pairs; val and test have one
_EXPRESSIONS_TRAIN = 2
_VG_SHARE = 0.15  # of vqa_train, as Visual Genome has them: one answer, no id
_DOWNSTREAM = ("train", "val", "test")


def pretrain(world: World, noise: float) -> Rows:
    """One record an image with one to three captions, a share ``noise`` of them wrong."""
    rng = world.rng("pretrain", "captions")
    spoiler = world.rng("pretrain", "noise")
    captioner = Captioner(world.lexicon, _SYNONYMS)
    texts = [
        [captioner.any(scene, rng, _PARTIAL) for _ in range(rng.randint(1, 3))] for scene in world.scenes["pretrain"]
    ]
    others = [captions[0] for captions in texts]
    result = []
    for image, captions in zip(world.images("pretrain"), texts, strict=True):
        # Two draws a caption whatever happens: another share of noise leaves the other captions as they are.
        heard = []
        for caption in captions:
            own = Random(spoiler.getrandbits(64))
            heard.append(captioner.noisy(caption, others, own) if spoiler.random() < noise else caption)
        result.append({"image": image, "caption": heard})
    return result


def retrieval(world: World, split: str) -> Rows:
    """Train: one row a caption. Val and test: one row an image, its only caption describing all of it."""
    rng = world.rng("retrieval", split)
    pairs = zip(world.images(split), world.scenes[split], strict=True)
    if split != "train":
        captioner = Captioner(world.lexicon)
        return [{"image": image, "caption": [captioner.full(scene, rng)]} for image, scene in pairs]
    captioner = Captioner(world.lexicon, _SYNONYMS)
    return [
        {"image": image, "caption": captioner.any(scene, rng, _PARTIAL_TRAIN), "image_id": number}
        for number, (image, scene) in enumerate(pairs)
        for _ in range(_TRAIN_CAPTIONS)
    ]


def vqa(world: World, split: str, config: EmojiConfig) -> Rows:
    """Questions with ten answers; a share of the train list is in the manner of Visual Genome."""
    rng = world.rng("vqa", split)
    generator = QuestionGenerator(world.lexicon, Compositions(world.seed), config.max_objects, split)
    result: Rows = []
    for image, scene in zip(world.images(split), world.scenes[split], strict=True):
        for question in generator.ask(scene, _QUESTIONS_TRAIN if split == "train" else _QUESTIONS, rng):
            record: dict[str, Any] = {"question": question.text, "image": image}
            if split == "train" and rng.random() < _VG_SHARE:
                record |= {"answer": question.answer, "dataset": "vg"}
            else:
                number = len(result) + 1_000_000 * _DOWNSTREAM.index(split)
                record |= {"question_id": number, "answer": answers(question, rng), "dataset": "vqa"}
            result.append(record)
    return result


def entailment(world: World, split: str, config: EmojiConfig) -> Rows:
    """Hypotheses of each image, three labels in equal shares; pictures that no hypothesis suits are left out."""
    rng = world.rng("ve", split)
    generator = HypothesisGenerator(world.lexicon, Compositions(world.seed), config.max_objects, split)
    result: Rows = []
    for image, scene in zip(world.images(split), world.scenes[split], strict=True):
        said: dict[str, str] = {}
        for _ in range(_HYPOTHESES_TRAIN if split == "train" else 1):
            if (claim := generator.claim(scene, rng, said)) is not None:
                said[claim[0]] = claim[1]
        result += [{"image": image, "sentence": sentence, "label": label} for sentence, label in said.items()]
    return result


def nlvr(world: World, split: str) -> Rows:
    """Statements of each image, about it and another one; labels are texts, as in the official lists."""
    rng = world.rng("nlvr", split)
    images, comparer = world.images(split), Comparer(world.lexicon, world.scenes[split])
    result: Rows = []
    for number in (n for n in range(len(images)) for _ in range(_STATEMENTS_TRAIN if split == "train" else 1)):
        if (found := comparer.state(number, rng)) is not None:
            text, truth, left, right = found
            result.append({"sentence": text, "label": str(truth), "images": [images[left], images[right]]})
    return result


def grounding(world: World, split: str, boxes: dict[str, dict[str, Any]], side: int) -> Rows:
    """Expressions of images of several things; true boxes and proposals of val and test go to ``boxes``."""
    rng = world.rng("grounding", split)
    result: Rows = []
    for image, scene in zip(world.images(split), world.scenes[split], strict=True):
        if split == "train":
            found = [refer(scene, world.lexicon, rng) for _ in range(_EXPRESSIONS_TRAIN)]
            result += [{"image": image, "text": text} for text in dict.fromkeys(f[0] for f in found if f is not None)]
        elif (referred := refer(scene, world.lexicon, rng)) is not None:
            text, box = referred
            number = len(boxes["refs"])
            result.append({"image": image, "text": text, "ref_id": number})
            boxes["refs"][str(number)] = {"image": image, "box": list(box)}
            boxes["proposals"][image] = [list(b) for b in proposals(scene, side, rng)]
    return result


def make(world: World, config: EmojiConfig) -> dict[str, Any]:
    """Every list by name, with ``answer_list`` and ``grounding_boxes``.

    ``grounding_boxes`` has the true box of every ``ref_id`` under ``refs`` and a detector's boxes of every image under
    ``proposals``; a box is x, y, width, height in pixels.
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
