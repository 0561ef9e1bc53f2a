"""Tests of the validation gate: findings, quarantine and failure."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from albef.config import ValidateConfig
from albef.data.lists import Lists, file_of, names_in
from albef.data.schema import EXTRAS, SchemaError
from albef.data.tables import SUFFIX, RecordTable, TableError, write_records
from albef.validation import gate
from albef.validation.gate import ValidationError
from tests.errors import refuses
from tests.unit.validation.conftest import Make, prepare


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found


def finding(out: Path, name: str, records: str) -> dict[str, Any]:
    return next(e for e in report(out)["expectations"] if (e["name"], e["list"]) == (name, records))


def rows(folder: Path, name: str) -> Any:
    """Records of a list, or the content of another file."""
    path = file_of(folder, name)
    return list(RecordTable(path)) if path.suffix == SUFFIX else json.loads(path.read_text())


def passed(out: Path, name: str) -> Any:
    return rows(out / "lists", name)


@pytest.fixture(autouse=True)
def _work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, for the state of interrupted runs."""
    monkeypatch.chdir(tmp_path)


def change(row: int, **values: Any) -> Callable[[list[Any]], None]:
    def apply(records: list[Any]) -> None:
        records[row] |= values

    return apply


def drop(row: int, key: str) -> Callable[[list[Any]], None]:
    def apply(records: list[Any]) -> None:
        del records[row][key]

    return apply


def test_sound_data_passes_unchanged(make: Make, config: ValidateConfig, tmp_path: Path) -> None:
    data, out = make(), tmp_path / "out"
    gate.run(config, data, out)
    for name in (*names_in(data), *EXTRAS):
        assert passed(out, name) == rows(data, name)
    assert report(out)["success"] is True
    assert all(e["success"] for e in report(out)["expectations"])
    assert json.loads((out / "quarantine.json").read_text()) == []
    page = (out / "docs" / "index.html").read_text(encoding="utf-8")
    assert all(f'<h2 id="{name}"' in page for name in names_in(data))
    assert "failed" not in page.partition("</style>")[2]
    assert not re.findall(r"(?:https?:)?//", page)  # nothing from other hosts
    # A second run replaces the first one and says the same.
    before = (out / "report.json").read_bytes()
    gate.run(config, data, out)
    assert (out / "report.json").read_bytes() == before


BROKEN: list[tuple[str, str, int, Callable[[list[Any]], None]]] = [
    ("schema", "pretrain", 3, drop(3, "caption")),
    ("schema", "retrieval_val", 4, change(4, caption="a text")),
    ("schema", "nlvr_train", 2, change(2, label=True)),
    ("schema", "vqa_val", 1, change(1, answer=[])),
    ("image_readable", "pretrain", 5, change(5, image="nowhere.png")),
    ("image_readable", "retrieval_test", 5, change(5, image="../data/pretrain.json")),
    ("image_readable", "nlvr_train", 6, change(6, images=["train6.png", "gone.png"])),
    ("text_not_empty", "retrieval_train", 7, change(7, caption="...")),
    ("text_not_long", "pretrain", 8, change(8, caption=["short", "long " * 61])),
    ("ids_unique", "retrieval_test", 9, change(9, image="test0.png")),
    ("ids_unique", "vqa_val", 9, change(9, question_id=0)),
    ("ids_unique", "retrieval_train", 9, change(9, image_id=0)),
    ("ids_unique", "grounding_test", 9, change(9, ref_id=1)),
    ("boxes_known", "grounding_test", 0, change(0, ref_id=77)),
    ("no_leakage", "pretrain", 0, change(0, image="test4.png")),
    ("no_leakage", "retrieval_train", 1, change(1, image="val5.png")),
]


def test_finds_every_kind_of_defect(make: Make, config: ValidateConfig, tmp_path: Path) -> None:
    out, changes = tmp_path / "out", {}
    for records in {b[1] for b in BROKEN}:
        some = [b[3] for b in BROKEN if b[1] == records]
        changes[records] = lambda rows, some=some: [None for apply in some if apply(rows)] and None
    with pytest.raises(ValidationError):
        gate.run(config, make(**changes), out)
    expected: dict[tuple[str, str], set[int]] = {}
    for name, records, row, _ in BROKEN:
        expected.setdefault((name, records), set()).add(row)
    found = {(e["name"], e["list"]): {x["row"] for x in e["examples"]} for e in report(out)["expectations"]}
    assert {key: rows for key, rows in found.items() if rows} == expected
    assert {(e["name"], e["list"]) for e in report(out)["expectations"] if not e["success"]} == set(expected)


def test_parts_are_judged_as_the_whole(
    make: Make, quarantine: ValidateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {}
    for records in {b[1] for b in BROKEN}:
        some = [b[3] for b in BROKEN if b[1] == records]
        changes[records] = lambda rows, some=some: [None for apply in some if apply(rows)] and None
    data, allowed = make(**changes), dataclasses.replace(quarantine, max_bad_share=0.9)
    gate.run(allowed, data, tmp_path / "whole")
    monkeypatch.setattr("albef.validation.facts.IMAGE_ROWS", 7)
    monkeypatch.setattr("albef.validation.facts.RECORD_ROWS", 3)
    gate.run(allowed, data, tmp_path / "parts")
    assert len(list((tmp_path / "parts" / "facts" / "pretrain").iterdir())) == 4
    for name in ("report.json", "quarantine.json"):
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()
    for path in (tmp_path / "whole" / "lists").iterdir():
        assert (tmp_path / "parts" / "lists" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("name", "records", "row", "apply"), BROKEN[::8])
def test_refuses_by_name_and_row(
    make: Make, config: ValidateConfig, tmp_path: Path, name: str, records: str, row: int, apply: Any
) -> None:
    out = tmp_path / "out"
    with refuses(ValidationError, f"{records}", repr(name), f"row {row}"):
        gate.run(config, make(**{records: apply}), out)
    assert report(out)["success"] is False
    found = finding(out, name, records)
    assert found["success"] is False
    assert [e["row"] for e in found["examples"]] == [row]
    # Report and docs say why; nothing goes on.
    assert (out / "docs" / "index.html").is_file()
    assert not (out / "lists").exists()


@pytest.mark.parametrize(("name", "records", "row", "apply"), [b for b in BROKEN if b[1] != "nlvr_train"][1::8])
def test_sets_bad_records_aside(
    make: Make,
    quarantine: ValidateConfig,
    tmp_path: Path,
    name: str,
    records: str,
    row: int,
    apply: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "out"
    data = make(**{records: apply})
    gate.run(quarantine, data, out)
    kept = passed(out, records)
    given_rows = rows(data, records)
    assert f"1 of {len(given_rows)} in {records}" in caplog.text
    assert kept == given_rows[:row] + given_rows[row + 1 :]
    (entry,) = json.loads((out / "quarantine.json").read_text())
    assert (entry["list"], entry["row"], entry["record"]) == (records, row, given_rows[row])
    assert entry["reason"].startswith(f"{name}: ")
    assert finding(out, name, records)["success"] is False
    lists = Lists(out / "lists", data)
    assert all(list(lists[name]) for name in names_in(lists.folder))  # each record is checked


def test_refuses_when_too_much_is_bad(make: Make, quarantine: ValidateConfig, tmp_path: Path) -> None:
    def spoil(records: list[Any]) -> None:
        for row in range(3):
            records[row]["image"] = "gone.png"

    with refuses(ValidationError, "pretrain", "'image_readable'", 3, "gone.png", "validate.max_bad_share"):
        gate.run(quarantine, make(pretrain=spoil), tmp_path / "out")


def test_lists_as_a_whole_cannot_be_quarantined(make: Make, quarantine: ValidateConfig, tmp_path: Path) -> None:
    def uniform(records: list[Any]) -> None:
        for record in records[:9]:
            record["label"] = "True"

    with refuses(ValidationError, "nlvr_train", "'labels_balanced'", 0.9):
        gate.run(quarantine, make(nlvr_train=uniform), tmp_path / "out")


def test_answers_outside_the_list_count_as_a_share(make: Make, quarantine: ValidateConfig, tmp_path: Path) -> None:
    def unknown(records: list[Any]) -> None:
        for record in records[1:]:
            record["answer"] = ["maybe"] * 6 + ["yes"] * 4

    data = make(vqa_val=unknown)
    with refuses(ValidationError, "vqa_val", "'answers_known'"):
        gate.run(dataclasses.replace(quarantine, min_known_answers=0.5), data, tmp_path / "out")
    gate.run(dataclasses.replace(quarantine, min_known_answers=0.01), data, tmp_path / "out")
    assert len(passed(tmp_path / "out", "vqa_val")) > 1  # none was taken out


def test_refuses_an_empty_list_and_no_list(make: Make, quarantine: ValidateConfig, tmp_path: Path) -> None:
    data = make(pretrain=lambda records: records.clear())
    with refuses(ValidationError, "pretrain", "'not_empty'", 0):
        gate.run(quarantine, data, tmp_path / "out")
    with refuses(ValidationError, "nowhere"):
        gate.run(quarantine, tmp_path / "nowhere", tmp_path / "out")


def test_a_refused_run_is_judged_again_without_decoding(
    make: Make, config: ValidateConfig, quarantine: ValidateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = make(pretrain=change(3, image="gone.png")), tmp_path / "out"
    with refuses(ValidationError, "pretrain"):
        gate.run(config, data, out)
    assert not (out / "facts").exists()
    with monkeypatch.context() as patch:
        patch.delattr("albef.validation.image_facts.of_rows")
        gate.run(quarantine, data, out)
    assert {path.name for path in (out / "facts").iterdir()} == {"images", *names_in(data)}
    assert not list((tmp_path / "scratch").iterdir())


def test_images_without_numbers_are_found_by_their_paths(
    make: Make, quarantine: ValidateConfig, tmp_path: Path
) -> None:
    data = make()
    paths = ["pretrain1.png", "elsewhere.png", "test4.png", *(f"pretrain{i}.png" for i in range(2, 9))]
    records = [{"image": path, "caption": "a thing"} for path in paths]
    write_records(data / "pretrain.arrow", [(record, []) for record in records])
    gate.run(quarantine, data, tmp_path / "out")
    assert passed(tmp_path / "out", "pretrain") == [records[0], *records[3:]]
    reasons = [entry["reason"] for entry in json.loads((tmp_path / "out" / "quarantine.json").read_text())]
    assert reasons[0] == "image_readable: elsewhere.png: no such image was prepared"
    assert reasons[1].startswith("no_leakage: test4.png has the same content as an image of retrieval_test")


def test_sizes_are_bounded(make: Make, config: ValidateConfig, tmp_path: Path) -> None:
    data = make(lambda folder: Image.new("RGB", (31, 40)).save(folder / "pretrain2.png"))
    with refuses(ValidationError, "validate.min_image_side", 32, "row 2", "pretrain2.png", 31.0, "quarantine"):
        gate.run(config, data, tmp_path / "out")
    tight = dataclasses.replace(config, min_image_side=1, max_image_side=39)
    with refuses(ValidationError, "'image_not_large'", 10, "row 0", 40.0):
        gate.run(tight, data, tmp_path / "out")


def test_broken_images_are_named(make: Make, quarantine: ValidateConfig, tmp_path: Path) -> None:
    def truncate(folder: Path) -> None:
        (folder / "pretrain1.png").write_bytes((folder / "pretrain1.png").read_bytes()[:60])

    data = make(truncate)
    gate.run(quarantine, data, tmp_path / "out")
    (entry,) = json.loads((tmp_path / "out" / "quarantine.json").read_text())
    assert "pretrain1.png" in entry["reason"]


def test_leakage_is_found_under_another_name_and_format(make: Make, config: ValidateConfig, tmp_path: Path) -> None:
    # The same pixels in another file format and place.
    data = make(lambda folder: Image.open(folder / "val3.png").save(folder / "pretrain7.png", "BMP"))
    with refuses(ValidationError, "'no_leakage'", "row 7", "pretrain7.png", "retrieval_val"):
        gate.run(config, data, tmp_path / "out")


def test_files_that_are_no_lists_are_named(make: Make, config: ValidateConfig, tmp_path: Path) -> None:
    data = make()
    changes = [
        (SchemaError, "answer_list.json", "{}"),
        (SchemaError, "grounding_boxes.json", "[]"),
        (SchemaError, "answer_list.json", "["),
        (SchemaError, "manifest.json", "3"),
        (TableError, "pretrain.arrow", "[]"),
    ]
    for error, name, text in changes:
        old = (data / name).read_bytes()
        (data / name).write_text(text)
        with refuses(error, name):
            gate.run(config, data, tmp_path / "out")
        (data / name).write_bytes(old)
    assert not (tmp_path / "out").exists()


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    junk=st.lists(
        st.none()
        | st.integers()
        | st.text(max_size=5)
        | st.dictionaries(st.sampled_from(["image", "caption"]), st.text()),
        max_size=4,
    )
)
def test_any_junk_among_the_records_is_set_aside(
    make: Make, quarantine: ValidateConfig, tmp_path_factory: pytest.TempPathFactory, junk: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("junk")
    good = [{"image": f"{i}.png", "caption": "a thing"} for i in range(20)]
    for i in range(20):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(folder / f"{i}.png")
    data = prepare(folder / "data", folder, {"pretrain": good[:10] + junk + good[10:]})
    gate.run(quarantine, data, folder / "out")
    assert passed(folder / "out", "pretrain") == good
    assert len(json.loads((folder / "out" / "quarantine.json").read_text())) == len(junk)
