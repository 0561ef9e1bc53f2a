"""Exported graphs compared with the model, without retrieval."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch

import albef
from albef.data import tokenizer as tokenizers
from albef.data.images import open_image, to_pixels
from albef.data.tokenizer import Encoder
from albef.export import onnx as export
from albef.export.graphs import graph_sizes, graphs_of
from albef.export.parity import ParityError
from albef.inference.answer_search import AnswerTree, rank_answers
from albef.inference.gradcam import itm_map
from albef.models.albef import ALBEF
from albef.serving import protocol
from albef.serving import session as sessions
from albef.tasks.evaluation import EvaluationError
from albef.tasks.grounding.export import heat_block
from albef.weights import checkpoint
from tests.errors import refuses
from tests.integration.export.test_onnx import tamper
from tests.worlds import write_params

TASKS = {
    "vqa": {"vision", "question", "decoder"},
    "entailment": {"vision", "classify"},
    "nlvr2": {"vision", "classify"},
    "grounding": {"vision", "heat"},
}
HEADS = {"vqa": "decoder", "entailment": "classify", "nlvr2": "classify", "grounding": "heat"}


def configured(model):
    """Configuration with heat maps of the first of two fusion layers."""
    grounding = model.config.tasks.grounding
    grounding = dataclasses.replace(grounding, evaluate=dataclasses.replace(grounding.evaluate, mode="itm", block=0))
    return dataclasses.replace(model.config, tasks=dataclasses.replace(model.config.tasks, grounding=grounding))


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Function that returns network and graph folder of a task, exported once."""
    done = {
        task: (checkpoint.load(model.folder / "models" / task / "model.pth")[0].eval(), model.exported / task)
        for task in ("vqa", "entailment", "nlvr2")
    }

    def get(task):
        if task not in done:
            folder = tmp_path_factory.mktemp(task)
            torch.manual_seed(1)
            vocabulary = Encoder.from_file(model.folder / "tokenizer" / "tokenizer.json").vocab_size
            net = ALBEF(model.config.model, vocabulary, task).eval()
            with torch.no_grad():
                for name, value in net.named_parameters():
                    if value.ndim > 1 and not name.startswith("teacher."):
                        value.mul_(3.0)  # answers then differ
            checkpoint.save(net, folder / "model" / "model.pth")
            export.run(configured(model), task, folder / "model", model.folder / "tokenizer", folder / "graphs")
            done[task] = net, folder / "graphs"
        return done[task]

    return get


@pytest.mark.parametrize("task", TASKS)
def test_graphs_pass_the_gate_at_many_shapes(model, exported, task):
    net, folder = exported(task)
    assert {path.name for path in folder.iterdir()} == {f"{graph}.onnx" for graph in TASKS[task]} | {"parity.json"}
    report = json.loads((folder / "parity.json").read_text())
    assert set(report["graphs"]) == TASKS[task]
    assert report["max_abs"] <= report["tolerance"] == model.config.export.tolerance
    for outputs in report["graphs"].values():
        for output in outputs.values():
            assert {shape.split("x")[0] for shape in output["shapes"]} >= {"1", "3", "7"}
    for graph, (_, spec) in graphs_of(task, net, configured(model)).items():
        session = sessions.open_session(folder / f"{graph}.onnx")
        sessions.check_signature(session, spec)
        proto = onnx.load(folder / f"{graph}.onnx")
        onnx.checker.check_model(proto, full_check=True)
        # No operators but ONNX's own and this file's functions: Triton has no others.
        assert {o.domain for o in proto.opset_import} <= {"", *(f.domain for f in proto.functions)}
        metadata = sessions.metadata(session)
        assert metadata[protocol.TASK_KEY] == task
        assert (protocol.TEMPERATURE_KEY in metadata) == (task == "grounding")


@pytest.mark.parametrize("task", TASKS)
def test_gate_catches_a_tampered_graph(model, exported, task, tmp_path):
    net, folder = exported(task)
    for graph in TASKS[task]:
        (tmp_path / f"{graph}.onnx").write_bytes((folder / f"{graph}.onnx").read_bytes())
    words = tokenizers.load(model.folder / "tokenizer")
    tamper(tmp_path / f"{HEADS[task]}.onnx", lambda w: len(w.dims) == 2 and min(w.dims) > 8)
    with refuses(ParityError, f"{task}_{HEADS[task]}", "export.tolerance"):
        export.gate(configured(model), net, task, tmp_path, words)


def run(folder, graph, **feeds):
    return sessions.open_session(folder / f"{graph}.onnx").run(None, feeds)


def test_sums_of_token_log_probabilities_rank_answers(model, exported):
    net, folder = exported("vqa")
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((2, 3, 32, 32)).astype(np.float32)
    ids, mask = rng.integers(5, net.vocab_size, (2, 7)), np.array([[1] * 7, [1] * 4 + [0] * 3])
    (embeds,) = run(folder, "vision", pixel_values=pixels)
    (states,) = run(folder, "question", image_embeds=embeds, input_ids=ids, attention_mask=mask)
    encoder = Encoder.from_file(model.folder / "tokenizer" / "tokenizer.json")
    answer_ids, answer_mask = encoder.encode_batch(["red", "dark red", "dark red and green", "blue"], end=True)

    def decode(ids, seen):
        answers = {"answer_ids": np.stack([ids] * 2), "answer_mask": np.stack([seen] * 2)}
        return run(folder, "decoder", question_states=states, attention_mask=mask, **answers)

    per_token, _ = decode(answer_ids, answer_mask)
    # What follows the first candidate, whatever the others: of [CLS] alone, and of "dark".
    _, first = decode(np.array([[encoder.cls, encoder.pad]]), np.array([[1, 0]]))
    written = answer_ids[[1, 0]] * (np.arange(answer_ids.shape[1]) < 2)
    _, second = decode(written, (written > 0).astype(np.int64))
    assert (per_token[:, :, 0] == 0).all()
    tree = AnswerTree.build([row[: m.sum()].tolist() for row, m in zip(answer_ids, answer_mask, strict=True)])
    with torch.no_grad():
        question = net.student.fuse(torch.from_numpy(pixels), torch.from_numpy(ids), torch.from_numpy(mask))
        expected = rank_answers(net.student.decoder, question, torch.from_numpy(mask), tree, 4, False)
    np.testing.assert_allclose(per_token.sum(axis=2), expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(np.exp(first).sum(axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(first[:, answer_ids[:, 1]], per_token[:, :, 1], atol=1e-5)
    np.testing.assert_allclose(second[:, answer_ids[1:3, 2]], per_token[:, 1:3, 2], atol=1e-5)


def test_heat_map_is_that_of_the_evaluation(model, exported):
    net, folder = exported("grounding")
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((3, 3, 32, 32)).astype(np.float32)
    ids, mask = rng.integers(5, net.vocab_size, (3, 6)), np.array([[1] * 6, [1] * 4 + [0] * 2, [1] * 6])
    embeds, _ = run(folder, "vision", pixel_values=pixels)
    (heat,) = run(folder, "heat", image_embeds=embeds, input_ids=ids, attention_mask=mask)
    expected = itm_map(net, torch.from_numpy(pixels), torch.from_numpy(ids), torch.from_numpy(mask), 0)
    # The gate's tolerance is absolute, and heat is small: here it must be right to its own scale.
    np.testing.assert_allclose(heat, expected.numpy(), atol=1e-4 * float(expected.max()))
    assert float(expected.max()) > 0
    assert (heat[1, 4:] == 0).all()


def test_nlvr2_tells_first_from_second_image(exported):
    net, folder = exported("nlvr2")
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((4, 3, 32, 32)).astype(np.float32)
    ids, mask = rng.integers(5, net.vocab_size, (2, 6)), np.ones((2, 6), dtype=np.int64)
    (embeds,) = run(folder, "vision", pixel_values=pixels)
    feeds = {"input_ids": ids, "attention_mask": mask}
    (logits,) = run(folder, "classify", image_embeds=embeds[:2], second_image_embeds=embeds[2:], **feeds)
    (swapped,) = run(folder, "classify", image_embeds=embeds[2:], second_image_embeds=embeds[:2], **feeds)
    with torch.no_grad():
        expected = net.student.classify(*(torch.from_numpy(a) for a in (pixels, ids, mask)))
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
    assert np.abs(logits - swapped).max() > 1e-3


def test_nlvr2_from_python_is_that_of_the_graphs(model, exported, tmp_path):
    _, folder = exported("nlvr2")
    params = write_params(model.config, tmp_path / "params.yaml")
    api = albef.load(
        model.folder / "models" / "nlvr2", params=params, tokenizer=model.folder / "tokenizer", device="cpu"
    )
    images, texts = [model.folder / "images" / f"{n}.png" for n in (3, 20, 41)], ["red above blue", "it is white"]
    pixels = np.stack([to_pixels(open_image(path), 32) for path in images])
    (embeds,) = run(folder, "vision", pixel_values=pixels)
    ids, mask = api.encoder.encode_batch(texts, max_tokens=30, max_words=30)
    feeds = {"image_embeds": embeds[:2], "second_image_embeds": embeds[[2, 2]]}
    (logits,) = run(folder, "classify", **feeds, input_ids=ids, attention_mask=mask)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = api.compare(images[:2], images[2], texts)
    np.testing.assert_allclose([[*each.probabilities.values()] for each in found], expected, atol=1e-4)


def test_a_model_of_another_task_is_refused(model, tmp_path):
    other = model.folder / "models" / "entailment"
    with refuses(EvaluationError, "model.pth", "'entailment'", "nlvr2"):
        export.run(model.config, "nlvr2", other, model.folder / "tokenizer", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sizes_name_only_what_there_is(exported):
    sizes = graph_sizes(exported("vqa")[0])
    assert sizes.projection == 0
    assert sizes.vocabulary == exported("vqa")[0].vocab_size
    assert graph_sizes(exported("grounding")[0]).projection == 16


def test_block_of_the_heat_map(model):
    config = configured(model)
    net = ALBEF(config.model, 50, "grounding")
    assert heat_block(config, net) == 0
    look = dataclasses.replace(config.tasks.grounding.evaluate, mode="itc", block=5)
    tasks = dataclasses.replace(config.tasks, grounding=dataclasses.replace(config.tasks.grounding, evaluate=look))
    net.config = dataclasses.replace(config.model, text=dataclasses.replace(config.model.text, fusion_layers=6))
    assert heat_block(dataclasses.replace(config, tasks=tasks), net) == 2
