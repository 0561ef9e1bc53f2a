"""Correctness of the benchmarks, without their timings."""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from albef.data import tokenizer
from albef.data.schema import read_list
from albef.serving import protocol, requests
from albef.serving.requests import InvalidRequestError
from albef.serving.session import open_session
from albef.tasks import registry
from albef.tasks.entailment import client as entailment
from benchmarks import data, evaluate, prepare, serving, size, step
from benchmarks import input as images
from benchmarks.load import cache, endpoints, graphs, machine, perf, precision, soak, variants
from benchmarks.load.local import FairSemaphore, Local
from benchmarks.load.loop import Load, Run, closed_loop, side_by_side, table
from benchmarks.load.questions import KINDS, Questions, make_image, sentence
from tests.errors import refuses
from tests.served import TASKS, Served
from tests.worlds import tiny_config

SMALL = (64, 48)


def test_a_pretraining_step_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    row = step.row_of(tiny_config(), 4, "fp32", "eager", steps=2, warmup=1, tokens=8, kernels=3)
    assert row[:3] == [4, "fp32", "eager"]
    assert float(row[3]) > 0
    *operators, line = capsys.readouterr().out.splitlines()
    assert [operator.split()[1] for operator in operators] == ["ms"] * 3
    assert "products" in line


def test_memory_of_training_data_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rows", "300", "--stream-rows", "2001", "--json-rows", "300", "--batches", "2", "--epochs", "1"]
    data.main(options)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip("| ") for row in rows] == ["tables", "stream", "JSON"]
    assert all(float(cell.strip("| ").replace(",", "")) > 0 for row in rows for cell in row[3:])


def test_training_images_are_measured(tmp_path: Path) -> None:
    paths = images.write_photos(tmp_path, 64, 48, count=3)
    assert len({path.read_bytes() for path in paths}) == 3
    result = images.measure(paths, 16, 2, None, tmp_path)
    assert len(result.ours) == len(result.other) == 2
    assert min(*result.ours, *result.other) > 0
    row = images.row_of("64x48", paths, images.Result([2.0, 4.0, 2.0], [6.0, 4.0, 8.0]))
    bits = 8 * sum(path.stat().st_size for path in paths) / (3 * 64 * 48)
    assert row == ["64x48", f"{bits:.1f}", "6.00", "2.00", "500", "3.00 (1.00 to 4.00)"]


def test_preparing_and_judging_are_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(prepare, "HELD_OUT", 10)
    prepare.main(["--rows", "40", "--distinct", "30", "--size", "64", "48", "--folder", str(tmp_path)])
    lines = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [line[:2] for line in lines] == [[" 40 ", " prepare "], [" 40 ", " validate "]]
    for _, _, seconds, cpu, own, every in lines:
        assert float(cpu) > 0
        assert float(seconds) > 0
        assert 20 < float(own.replace(",", "")) <= float(every.replace(",", ""))
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_evaluation_scores_as_the_plain_loop_does() -> None:
    torch.manual_seed(0)
    for result in (
        evaluate.retrieval(images=6, texts=20, k=4, sample=3),
        evaluate.vqa(images=3, per_image=2, answers=12, k=5, sample=4),
    ):
        assert result.max_difference < 1e-4
        assert result.ours_s > 0 < result.plain_s


def test_latencies_of_a_run() -> None:
    run = Run([0.004, 0.001, 0.002, 0.003], 2.0, Counter(a=1)) + Run([0.005], 0.5, Counter(a=2))
    assert run.percentile(50) == pytest.approx(3)
    assert run.percentile(75) == pytest.approx(4)
    assert run.percentile(99) == pytest.approx(4.96)  # between the fourth and the fifth
    assert run.rate == pytest.approx(5 / 2.5)
    assert run.failures == {"a": 3}
    assert np.isnan(Run().percentile(50))
    assert np.isnan(Run().rate)


def test_sides_take_turns() -> None:
    order = []

    def side(name: str, seconds: list[float]):
        def turn() -> Run:
            order.append(name)
            return Run([seconds.pop(0)], 1.0)

        return turn

    found = side_by_side(side("ours", [2.0, 3.0, 30.0]), side("theirs", [1.0, 2.0, 10.0]), 3)
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert found.ratios == pytest.approx([2, 1.5, 3])
    assert found.ratio == pytest.approx(2)
    assert found.figures()["server"]["p50_ms"] == pytest.approx(3000)


def test_as_many_callers_as_asked_for() -> None:
    here, most, lock = 0, 0, threading.Lock()

    def ask(number: int) -> None:
        nonlocal here, most
        with lock:
            here, most = here + 1, max(most, here + 1)
        time.sleep(0.01)
        with lock:
            here -= 1
        if number % 4 == 0:
            raise ValueError("every fourth")

    run = closed_loop(ask, concurrency=3, seconds=0, least=20)
    assert most == 3
    assert len(run.latencies) == 15
    assert run.failures == {"ValueError: every fourth": 5}
    assert min(run.latencies) >= 0.01
    assert run.seconds >= 0.07


def test_turns_are_given_in_the_order_of_coming() -> None:
    turns, done, lock = FairSemaphore(1), [], threading.Lock()

    def wait(number: int) -> None:
        with turns, lock:
            done.append(number)

    with turns:
        threads = [threading.Thread(target=wait, args=(number,)) for number in range(8)]
        for number, thread in enumerate(threads):
            thread.start()
            while len(turns._waiting) <= number:
                time.sleep(0.001)
        assert done == []
    for thread in threads:
        thread.join()
    assert done == [*range(8)]
    assert turns.free == 1


def test_slope_of_memory() -> None:
    assert soak.slope([0, 1, 2, 3], [1, 3, 5, 7]) == pytest.approx((2, 0))
    # By hand: residuals -1/3, 2/3, -1/3; sum of squares 2/3, over one degree of freedom and x's 2.
    assert soak.slope([0, 1, 2], [0, 1, 0]) == pytest.approx((0, np.sqrt(2 / 3 / 2)))
    assert np.isnan(soak.slope([0, 1], [0, 1])).all()


def test_memory_of_processes() -> None:
    found = soak.memory([os.getpid(), 2**22 + 1])  # the second is none
    assert 20 < found["Pss"] <= found["Rss"] + 1


def test_record_of_the_load_generator(tmp_path: Path) -> None:
    requests = [
        {"timestamp": 1_000_000_000, "response_timestamps": [1_002_000_000]},
        {"timestamp": 1_001_000_000, "response_timestamps": [1_007_000_000]},
        {"timestamp": 1_003_000_000, "response_timestamps": []},
    ]
    run = perf.read_profile({"experiments": [{"requests": requests}]})
    assert run.latencies == pytest.approx([0.002, 0.006])
    assert run.seconds == pytest.approx(0.007)
    assert run.failures == {"no answer": 1}

    ids = np.array([[4, 5, 6]])
    perf.write_inputs(tmp_path / "inputs.json", [{"input_ids": ids}])
    (row,) = json.loads((tmp_path / "inputs.json").read_text())["data"]
    assert row["input_ids"]["shape"] == [3]
    assert np.frombuffer(base64.b64decode(row["input_ids"]["content"]["b64"]), np.int64).tolist() == [4, 5, 6]


def test_questions_differ() -> None:
    assert len({make_image(seed, SMALL) for seed in range(8)}) == len({sentence(seed) for seed in range(8)}) == 8
    assert make_image(3, SMALL) == make_image(3, SMALL)


def test_what_is_said_of_the_machine() -> None:
    text = "processor: 0\nmodel name\t: A CPU\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor: 1\nmodel name: B\n"
    assert machine.processor(text) == {"cpu": "A CPU", "flags": ["avx2", "amx_bf16"]}
    assert "numpy" in machine.heading(machine.describe())


def test_table() -> None:
    assert table(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |"


def test_differences_of_answers() -> None:
    one, other = [[requests.Match("a", 2.0)]], [[requests.Match("b", 4.0)]]
    assert endpoints.difference(one, other) == pytest.approx(0.5)
    assert endpoints.difference(one, one) == 0
    assert endpoints.difference(one, [[]]) == np.inf
    assert endpoints.difference([{"yes": 0.25}], [{"yes": 0.75}]) == pytest.approx(0.5)


def test_errors_of_the_baseline_are_the_clients(model: Served) -> None:
    with refuses(InvalidRequestError, "'text'"):
        Local(model.repository, "entailment").ask(entailment.request(make_image(0, SMALL), ["  "]))


def test_inputs_are_those_of_the_endpoints(model: Served) -> None:
    found = graphs.inputs_of(model.repository, list(KINDS), 2, SMALL)
    names = {f"{task}_{graph}" for task in TASKS for graph in registry.graphs(task)}
    assert set(found) == names
    assert {len(rows) for rows in found.values()} == {2}
    assert {len(array) for rows in found.values() for row in rows for array in row.values()} == {1}
    # The second call of the decoder: whole answers, not [CLS] alone.
    assert found["vqa_decoder"][0][protocol.ANSWER_IDS].shape[1] > 1


def test_both_sides_answer_alike(model: Served) -> None:
    found = list(endpoints.measure(model.repository, list(KINDS), Load([1, 3], 2, 0.0, 4, SMALL)))
    assert [(result["kind"], result["concurrency"]) for result in found] == [(n, c) for n in KINDS for c in (1, 3)]
    for result in found:
        for side in ("server", "in_process"):
            assert result[side]["failures"] == {}
            assert result[side]["requests"] >= 2 * result["concurrency"]
        calls_of = {graph: each["requests"] for graph, each in result["server_graphs"].items()}
        # No response cache: every image is encoded.
        assert calls_of["vision"] == {"retrieval-text": 0, "embed-text": 0, "compare": 2}.get(result["kind"], 1)
        assert endpoints.profile(result).count("\n") == 1 + len(calls_of)
        assert len(endpoints.row(result)) == len(endpoints.HEADER)


def test_work_that_differs_is_refused(model: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Local.ask
    monkeypatch.setattr(Local, "ask", lambda self, call: [{k: 1 - p for k, p in real(self, call)[0].items()}])
    with refuses(endpoints.DifferentAnswersError, "entailment"):
        next(endpoints.measure(model.repository, ["entailment"], Load([1], 1, 0.0, 3, SMALL)))


def test_a_long_run_counts_failures(model: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Questions.__getitem__

    def sometimes_wrong(self: Questions, number: int):
        return entailment.request(b"no image", ["a"]) if number == 0 else real(self, number)

    monkeypatch.setattr(Questions, "__getitem__", sometimes_wrong)
    result = soak.run(model.repository, list(KINDS), 4, 2.0, 0.2, 8, SMALL, 2**22)
    (failure,) = result["failures"]
    assert failure.startswith("InvalidRequestError: 'image': not a readable image")
    assert result["requests"] > 20
    assert result["lost_processes"] == 0
    # Server, proxy and HTTP with a watcher each, and a stub per model: seven endpoints and twelve graphs.
    assert {sample["processes"] for sample in result["samples"]} == {25}
    assert result["Rss"]["end_mib"] > result["Pss"]["end_mib"] > 100
    assert "failed: " in soak.report(result)


def test_the_command_writes_what_it_prints(
    model: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["cache", "--repository", str(model.repository), "--only", "vqa", "retrieval-text"]
    options = ["--images", "3", "--again", "2", "--size", "64x48", "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["serving", *arguments, *options])
    assert serving.main() == 0
    (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert (result["hits"], result["misses"]) == (6, 3)
    p50 = result["p50_ms"]
    assert result["gain"] == pytest.approx(p50["without"] / p50["again"])
    assert table([], [cache.row(result)]).splitlines()[-1] in capsys.readouterr().out


def test_a_folder_that_is_no_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["serving", "cache", "--repository", str(tmp_path)])
    with refuses(SystemExit, tmp_path):
        serving.main()


@pytest.mark.parametrize("variant", ["fp32", "int8", "int8-ffn", "int8-blocks", "fp16"])
def test_smaller_graphs_answer(model: Served, variant: str, tmp_path: Path) -> None:
    files = precision.make(model.repository, variant, TASKS, tmp_path / "export")
    inputs = graphs.inputs_of(model.repository, list(KINDS), 1, SMALL)
    assert set(files) == set(inputs)
    for name, (row,) in inputs.items():
        feeds = variants.tiled(row, 3)
        own = open_session(model.repository / name / "1" / "model.onnx").run(None, feeds)[0]
        found = open_session(files[name]).run(None, feeds)[0]
        assert found.shape == own.shape
        assert len(found) == 3
        # Nearer than chance, and not the same: it is another graph.
        apart = np.abs(found - own).max() / np.abs(own).max()
        assert apart < 0.5
        if variant == "fp32":
            assert apart == 0


def test_losses_are_of_the_same_questions(model: Served, tmp_path: Path) -> None:
    (tmp_path / "validated").mkdir()
    (tmp_path / "validated" / "lists").symlink_to(model.folder / "lists")
    (tmp_path / "data").symlink_to(model.folder)
    (tmp_path / "tokenizer").symlink_to(model.folder / "tokenizer")
    found = list(precision.accuracy(model.config, tmp_path, model.repository, TASKS, ["int8"], 6))
    plain, small = found[: len(found) // 2], found[len(found) // 2 :]
    assert [result["metric"] for result in plain] == [result["metric"] for result in small]
    assert {result["loss"] for result in plain} == {0.0}
    for after in small:
        assert after["loss"] == pytest.approx(after["before"] - after["after"])
        assert 0 <= after["after"] <= 1


def test_the_world_of_the_paper_sized_model(tmp_path: Path) -> None:
    size.world(tmp_path, images=3, vocabulary=2000)
    words = tokenizer.load(tmp_path / "tokenizer")
    assert words.get_vocab_size() == 2000
    assert words.encode("a red dog").tokens == ["[CLS]", "a", "red", "dog"]
    rows = read_list(tmp_path / "lists" / "retrieval_test.json")
    assert all((tmp_path / row["image"]).is_file() for row in rows)
    assert len(set(json.loads((tmp_path / "lists" / "answer_list.json").read_text()))) == size.ANSWERS
