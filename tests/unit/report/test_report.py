"""Tests of the report page."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from albef.report import figures, page
from albef.report.source import ReportError, read_history
from tests.errors import refuses

CAPTION = 'a dog left of <b>a "red" apple</b>'


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Small artifacts in the layout of the pipeline."""
    root = tmp_path / "artifacts"
    names = [f"images/test/{i:06}.png" for i in range(6)]
    for number, name in enumerate(names):
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 40 * number, np.uint8)).save(path)
    files: dict[str, object] = {
        "validated/lists/pretrain.json": [{"image": n, "caption": [CAPTION, "another"]} for n in names],
        "validated/lists/retrieval_test.json": [{"image": n, "caption": [CAPTION]} for n in names],
        "pretrain/metrics.json": {"loss": 1.5, "itc_loss": 0.5},
        "finetune/retrieval/metrics.json": {"val_r_mean": 0.75},
        "evaluate/retrieval/metrics.json": {"ir_r1": 0.625, "itc_ir_r1": 0.5, "tr_r1": 0.25, "r_mean": 0.5},
        "evaluate/retrieval/shown/examples.json": {
            "text_to_image": [
                {"query": CAPTION, "target": names[1], "ranked": [{"image": n, "score": 1.0} for n in names[:5]]}
            ],
            "image_to_text": [
                {"query": names[0], "target": [CAPTION], "ranked": [{"caption": CAPTION, "score": 0.5}]},
            ],
        },
        "export/retrieval/parity.json": {
            "tolerance": 1e-4,
            "graphs": {"vision": {"image_feat": {"max_abs": 3e-7, "max_rel": 1e-6}}},
        },
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    for run in ("pretrain", "finetune/retrieval"):
        (root / run / "history.csv").write_text("step,lr,loss,itc_loss\n1,0.1,3.0,2.0\n2,0.1,2.0,1.0\n")
    return root


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []
        self.places: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.images += [str(value) for name, value in attrs if tag == "img" and name == "src"]
        self.links += [str(value)[1:] for name, value in attrs if name == "href" and str(value).startswith("#")]
        self.places += [str(value) for name, value in attrs if name == "id"]


def write(artifacts: Path) -> str:
    page.run(artifacts, artifacts / "data", artifacts / "report")
    return (artifacts / "report" / "index.html").read_text()


def test_the_page_shows_metrics_and_its_images_exist(artifacts: Path) -> None:
    text = write(artifacts)
    page = _Page(text)
    assert "62.5" in text  # recall in per cent
    assert "3e-07" in text
    assert "pretrain" in text
    assert len(page.images) == 3
    assert page.tags.count("svg") == 4
    assert len(set(page.places)) == len(page.places)
    assert page.links == [
        place for place in page.places if not re.search(r"[0-9a-f]{10}$", place)
    ]  # not those of charts
    for address in page.images:
        kind, _, content = address.partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert min(image.size) > 100
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 2  # something is drawn


def test_charts_are_text_in_the_color_of_the_page(artifacts: Path) -> None:
    (artifacts / "finetune/retrieval/metrics.json").write_text('{"val_ir_r1": 0.5}')
    write(artifacts)
    for name, texts in {
        "losses": ("pretrain", "itc_loss", "step"),
        "summary": ("retrieval", "0.625"),
        "recall": ("text to image", "R@1"),
        "retrieval_training": ("training", "loss", "ir_r1"),
    }.items():
        svg = (artifacts / "report" / f"{name}.svg").read_text()
        for text in texts:
            assert f">{text}</text>" in svg
        assert len(svg) < 40_000
        assert "currentColor" in svg
        assert not re.search("#000000|#ffffff|#010203|<metadata>|<image", svg)


def test_curves_show_validation_where_there_is_one(tmp_path: Path) -> None:
    def dots(values: str) -> int:
        rows = [f"{step},3,{value}" for step, value in enumerate(values.split("|"))]
        (tmp_path / "history.csv").write_text("\n".join(["step,loss,val_accuracy", *rows]))
        history = read_history(tmp_path / "history.csv")
        figures.curves({"training": history}, tmp_path / "chart.svg", "val_accuracy")
        return (tmp_path / "chart.svg").read_text().count("<use ")

    assert dots("|0.25||0.5") == dots("|||0.5") + 1


def test_the_right_image_is_framed(artifacts: Path) -> None:
    def green() -> int:
        write(artifacts)
        with Image.open(artifacts / "report" / "text_to_image.png") as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        return int((np.abs(pixels - [0x1A, 0x7F, 0x37]).sum(axis=2) < 8).sum())

    framed = green()
    assert framed > 200
    path = artifacts / "evaluate/retrieval/shown/examples.json"
    path.write_text(
        path.read_text().replace('"target": "images/test/000001.png"', '"target": "images/test/000005.png"')
    )
    assert green() == 0  # not among the best five


def test_the_same_run_gives_the_same_report(artifacts: Path) -> None:
    def content() -> dict[str, bytes]:
        write(artifacts)
        return {path.name: path.read_bytes() for path in sorted((artifacts / "report").iterdir())}

    assert content() == content()


def test_sources_and_dropped_captions_are_shown(artifacts: Path) -> None:
    assert "source" not in write(artifacts)
    report = {
        "sources": {"pretrain": {"coco.json": 100, "<b>.json": 5_000}, "vqa_train": {"only.json": 9}},
        "captions": {
            "pretrain": {
                "captions": 400,
                "dropped": {"short": 3, "few_letters": 5, "language": 0},
                "rows": 100,
                "rows_dropped": 2,
            }
        },
    }
    path = artifacts / "validated" / "report.json"
    path.write_text(json.dumps(report))
    text = re.sub(r"\s*<[^>]+>\s*", "|", write(artifacts))
    for row in (
        "pretrain||coco.json||100",
        "pretrain||&lt;b&gt;.json||5000",
        "pretrain||few letters||5||1.25",
        "pretrain||short||3||0.75",
        "pretrain||all captions of a row||2||2",
    ):
        assert row in text
    assert "only.json" not in text  # a single source
    assert "language" not in text
    path.write_text("{}")
    with refuses(ReportError, "report.json", "albef validate"):
        write(artifacts)


def test_names_are_escaped(artifacts: Path) -> None:
    (artifacts / "evaluate" / "<script>").mkdir()
    for stage in ("evaluate", "finetune"):
        folder = artifacts / stage / "<script>"
        folder.mkdir(exist_ok=True)
        (folder / "metrics.json").write_text('{"accuracy": 0.5}')
        (folder / "history.csv").write_text("step,loss\n1,1\n")
    assert "script" not in _Page(write(artifacts)).tags


def test_a_run_without_losses_yet_is_shown(artifacts: Path) -> None:
    (artifacts / "pretrain/history.csv").write_text("step\n")
    assert "losses.svg" in write(artifacts)


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("evaluate/retrieval/shown/examples.json", "{}", []),
        ("evaluate/retrieval/shown/examples.json", "[", ["JSON"]),
        ("evaluate/retrieval/metrics.json", '{"ir_r1": "high"}', []),
        ("pretrain/history.csv", "step,loss\n1,low\n", ["'low'"]),
        ("pretrain/history.csv", "epoch,loss\n1,2\n", ["'step'", "epoch"]),
        ("export/retrieval/parity.json", '{"graphs": {"vision": []}}', []),
        ("finetune/retrieval/history.csv", None, []),
        ("data/images/test/000000.png", "not an image", []),
    ],
)
def test_a_bad_file_is_named_and_an_old_report_stays(
    artifacts: Path, name: str, content: str | None, names: list[str]
) -> None:
    write(artifacts)
    path = artifacts / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with refuses(ReportError, path, *names):
        write(artifacts)
    assert (artifacts / "report" / "index.html").is_file()
    assert [p.name for p in artifacts.iterdir() if p.name.startswith(".")] == []


def test_nothing_evaluated_is_said(tmp_path: Path) -> None:
    with refuses(ReportError, tmp_path / "evaluate"):
        page.run(tmp_path, tmp_path, tmp_path / "report")


def test_a_search_is_shown_where_there_was_one(artifacts: Path) -> None:
    for task, metrics in (("vqa", {"accuracy": 0.75, "accuracy_before": 0.625, "trials": 4}), ("retrieval", {})):
        (artifacts / "tune" / task).mkdir(parents=True)
        (artifacts / "tune" / task / "metrics.json").write_text(json.dumps(metrics))
    trials = "trial,accuracy,epochs,optim.lr,alpha,error\na,0.5,2,0.001,0.4,\nb,0.5,2,0.01,0,\nc,,0,1,0.1,ValueError\n"
    (artifacts / "tune" / "vqa" / "trials.csv").write_text(trials)
    page.run(artifacts, artifacts / "data", artifacts / "report")
    text = (artifacts / "report" / "index.html").read_text()
    row = '<td>vqa</td><td>accuracy</td><td class="n">0.625</td><td class="n">0.75</td><td class="n">4</td>'
    assert text.count(row) == 1
    assert "retrieval_search" not in text
    chart = (artifacts / "report" / "vqa_search.svg").read_text()
    words = re.findall(r"<text[^>]*>([^<]+)<", chart)
    assert words == ["optim.lr", "alpha", "accuracy", "0.001", "0.01", "0", "0.4", "0.5", "0.5"]  # c has no metric
    (best,) = re.findall(r'<path d="([^"]*)"[^>]*#d55e00', chart)
    low, high, _ = (float(height) for height in re.findall(r"[\d.]+ ([\d.]+)", best))
    assert low > high  # a, the first of equals: its rate is the lower one, and its alpha the higher one
    assert chart in text


def test_the_last_run_with_other_results_is_shown(artifacts: Path) -> None:
    def shown() -> str:
        page.run(artifacts, artifacts / "data", artifacts / "report", artifacts / "m.json", work_dir=artifacts / "work")
        text = re.sub(r"\s*<[^>]+>\s*", "|", (artifacts / "report" / "index.html").read_text())
        return text.partition("retrieval||ir_r1||")[2][:30]

    assert shown().startswith("0.625||-||-||")
    (artifacts / "evaluate/retrieval/metrics.json").write_text('{"ir_r1": 0.75}')
    assert shown().startswith("0.75||-||0.625||")
    again = page._previous({"retrieval": 0.75}, artifacts / "work" / "headlines.json")
    assert again == {"retrieval": 0.625}  # a report that is written again shows the same
    assert json.loads((artifacts / "m.json").read_text()) == {"retrieval": 0.75}
