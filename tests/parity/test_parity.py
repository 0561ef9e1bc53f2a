"""Parity of losses, states, gradients and queues with the official code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from albef.inference.answer_search import AnswerTree, rank_answers
from albef.inference.gradcam import itc_map, itm_map
from albef.weights.official import to_official
from tests.errors import refuses
from tests.parity.harness import GRAD_RTOL, Case, assert_close, cases, load_case


def _check_losses(case: Case, losses: dict[str, torch.Tensor]) -> None:
    for name in ("mlm", "itc", "itm"):
        if f"loss_{name}" in case.expected:
            assert_close(losses[f"{name}_loss"], case.expected[f"loss_{name}"], f"loss_{name}")


def _check_state(case: Case) -> None:
    """Teacher, queues and pointer after the step, under their official names."""
    model = case.task.model
    state = to_official(model.state_dict(), model.config.text.layers, model.task)
    for name, expected in case.expected.items():
        if name.startswith("ema."):
            assert_close(state[name.removeprefix("ema.")], expected, name)
        elif name in ("image_queue", "text_queue", "idx_queue", "queue_ptr"):
            assert_close(state[name], expected, name)


def _check_gradients(case: Case) -> None:
    model = case.task.model
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    official = to_official(gradients, model.config.text.layers, model.task)
    checked = [name for name in case.expected if name.startswith("grad.")]
    for name in checked:
        assert_close(official[name.removeprefix("grad.")], case.expected[name], name, GRAD_RTOL)


@pytest.mark.parametrize("path", cases("pretrain"), ids=lambda p: p.stem)
def test_pretrain(path: Path) -> None:
    case = load_case(path)
    model, student = case.task.model, case.task.model.student
    ids, mask = case.inputs["input_ids"], case.inputs["attention_mask"]
    with torch.no_grad():
        image_embeds, _ = model.encode_image(case.inputs["image"])
        text_embeds, _ = model.encode_text(ids, mask)
        keys_values = student.fusion.keys_values(image_embeds)
        fused = student.fusion(text_embeds, mask, keys_values)
        masked = student.fusion(student.text(case.inputs["masked_ids"], mask), mask, keys_values)
        assert_close(image_embeds, case.expected["image_embeds"], "image_embeds")
        assert_close(text_embeds, case.expected["text_embeds"], "text_embeds")
        assert_close(fused, case.expected["fused"], "fused")
        assert_close(model.match(text_embeds, mask, image_embeds), case.expected["itm_logits_positive"], "itm_logits")
        assert_close(student.word_logits(masked), case.expected["mlm_logits"], "mlm_logits")

    losses = case.task(
        case.batch, case.alpha, negatives=case.negatives, masked=(case.inputs["masked_ids"], case.inputs["mlm_labels"])
    )
    sum(losses.values()).backward()
    _check_losses(case, losses)
    _check_state(case)
    _check_gradients(case)


@pytest.mark.parametrize("path", cases("retrieval"), ids=lambda p: p.stem)
def test_retrieval(path: Path) -> None:
    case = load_case(path)
    losses = case.task(case.batch, case.alpha, negatives=case.negatives)
    sum(losses.values()).backward()
    _check_losses(case, losses)
    _check_state(case)
    _check_gradients(case)


@pytest.mark.parametrize("path", cases("retrieval"), ids=lambda p: p.stem)
def test_grad_cam(path: Path) -> None:
    """Heat maps of fusion layers (numbered through from the text's first) and image blocks."""
    case = load_case(path)
    model = case.task.model
    inputs = (case.inputs["image"], case.inputs["input_ids"], case.inputs["attention_mask"])
    checked = 0
    for name, expected in case.expected.items():
        if not (found := re.fullmatch(r"gradcam_(itm|itc)_block(\d+)(_per_token)?", name)):
            continue
        mode, block, per_token = found.group(1), int(found.group(2)), found.group(3)
        if mode == "itc":
            actual = itc_map(model, *inputs, block)
        else:
            actual = itm_map(model, *inputs, block - model.config.text.layers)
            actual = actual if per_token else actual.mean(dim=1)
        assert_close(actual, expected, name, GRAD_RTOL)
        checked += 1
    assert checked, "no heat map in the case"


@pytest.mark.parametrize("path", [*cases("entailment"), *cases("nlvr2")], ids=lambda p: p.stem)
def test_classification(path: Path) -> None:
    case = load_case(path)
    batch = case.batch
    with torch.no_grad():
        logits = case.task.model.student.classify(batch["image"], batch["input_ids"], batch["attention_mask"])
    assert_close(logits, case.expected["logits"], "logits")
    losses = case.task(batch, case.alpha)
    assert_close(losses["cls_loss"], case.expected["loss"], "loss")
    losses["cls_loss"].backward()
    _check_state(case)
    _check_gradients(case)


@pytest.mark.parametrize("path", cases("vqa"), ids=lambda p: p.stem)
def test_vqa(path: Path) -> None:
    case = load_case(path)
    losses = case.task(case.batch, case.alpha)
    assert_close(losses["answer_loss"], case.expected["loss"], "loss")
    losses["answer_loss"].backward()
    _check_state(case)
    _check_gradients(case)


@pytest.mark.parametrize("path", cases("vqa"), ids=lambda p: p.stem)
def test_rank_answer(path: Path) -> None:
    """The official ranking: first token counted twice, probabilities over the shortlist."""
    case = load_case(path)
    student, mask = case.task.model.student, case.inputs["attention_mask"]
    rows = zip(case.inputs["candidate_ids"].tolist(), case.inputs["candidate_mask"].sum(dim=1).tolist(), strict=True)
    tree = AnswerTree.build([ids[:length] for ids, length in rows])
    top = int(case.inputs["k_test"])
    with torch.no_grad():
        question = student.fuse(case.inputs["image"], case.inputs["input_ids"], mask)
        scores = rank_answers(student.decoder, question, mask, tree, top, official_quirks=True)
    best = scores.softmax(dim=1).topk(top, dim=1)
    assert_close(best.values, case.expected["topk_probs"], "topk_probs")
    assert torch.equal(best.indices.cpu(), case.expected["topk_ids"])


def test_a_wrong_weight_is_noticed() -> None:
    """The comparison can fail: one changed weight breaks it."""
    case = load_case(cases("retrieval")[0])
    with torch.no_grad():
        case.task.model.student.vision_proj.weight[0, 0] += 0.01
    losses = case.task(case.batch, case.alpha, negatives=case.negatives)
    with refuses(AssertionError, "loss_itc"):
        _check_losses(case, losses)
