"""Tests of reading RefCOCO+ references: safe unpickling and boxes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from albef.data.schema import SchemaError
from albef.datasets.refcoco import Part, _PlainUnpickler, convert, read, read_pickle
from tests import ROOT
from tests.errors import refuses

OFFICIAL = ROOT / "tests/fixtures/datasets/refcoco+"
FILES = [OFFICIAL / name for name in ("refs(unc).p", "instances.json", "dets.json")]
RECORDS = [
    {"image": "coco/COCO_train2014_000000000034.jpg", "text": "round thing", "ref_id": "2"},
    {"image": "coco/COCO_train2014_000000000036.jpg", "text": "man in red", "ref_id": 3},
]


def parts() -> list[Part]:
    return [read(path) for path in FILES]


def test_boxes_are_found_by_record() -> None:
    result = convert(parts()[::-1], [*RECORDS, {"image": "elsewhere.jpg", "text": "x", "ref_id": 99}])
    instances = json.loads(FILES[1].read_text())
    boxes = {a["id"]: a["bbox"] for a in instances["annotations"]}
    detected = json.loads(FILES[2].read_text())
    assert result == {
        "refs": {
            "2": {"image": RECORDS[0]["image"], "box": boxes[702], "split": "val"},
            "3": {"image": RECORDS[1]["image"], "box": boxes[703], "split": "testA"},
        },
        "proposals": {RECORDS[n]["image"]: [b[:4] for b in detected[key]] for n, key in ((0, "34"), (1, "36"))},
    }


def test_references_may_be_json(tmp_path: Path) -> None:
    path = tmp_path / "refs.json"
    path.write_text(json.dumps(read_pickle(FILES[0])))
    assert convert([read(path), *parts()[1:]], RECORDS) == convert(parts(), RECORDS)


def test_what_is_unknown_is_left_to_the_gate() -> None:
    refs, instances, detections = parts()
    instances.content[1].clear()
    detections.content.clear()
    assert convert([refs, instances, detections], RECORDS) == {"refs": {}, "proposals": {}}


def test_references_of_another_data_set_are_refused() -> None:
    with refuses(SchemaError, "refs(unc).p", "ref_id 3", "COCO_train2014_000000000036.jpg"):
        convert(parts(), [RECORDS[0] | {"ref_id": 3}])


def test_the_three_belong_together() -> None:
    refs, instances, detections = parts()
    for given_parts, missing in (
        ([instances, detections], "references"),
        ([refs, detections], "instances"),
        ([refs, instances], "detections"),
    ):
        with refuses(SchemaError, "prepare.lists.files.grounding_boxes", missing):
            convert(given_parts, RECORDS)
    with refuses(SchemaError, "dets.json", "detections"):
        convert([refs, instances, detections, detections], RECORDS)


class Evil:
    """Object whose unpickling writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.path)!r}, 'w')",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    witness, path = tmp_path / "witness", tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([{"ref_id": 1, "sentences": Evil(witness)}], protocol))
    with refuses(SchemaError, "refs.p"):
        read(path)
    assert not witness.exists()
    pickle.loads(path.read_bytes())  # it would have
    assert witness.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # GLOBAL, REDUCE
        b"(S'true'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",  # STACK_GLOBAL
        b"\x80\x02cbuiltins\ndict\n)\x81.",  # NEWOBJ, even of something harmless
        b"\x80\x02\x82\x01.",  # EXT1
        b"P1\n.",  # PERSID
        b"}}b.",  # BUILD
        b"I1\n(tR.",  # REDUCE of a number
        b"\x80\x05\x97.",  # NEXT_BUFFER
        b"]",
        b"",
        b"\x80\xff.",
    ],
)
def test_every_way_to_a_call_is_closed(tmp_path: Path, program: bytes) -> None:
    path = tmp_path / "refs.pkl"
    path.write_bytes(program)
    with refuses(SchemaError, "refs.pkl"):
        read(path)


def test_a_note_far_away_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(b"]r\xff\xff\xff\xff.")  # a table of as many entries would have 64 GB
    assert read_pickle(path) == []


def test_classes_are_refused_even_if_an_instruction_gets_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(b"cos\nsystem\n.")
    monkeypatch.setattr(_PlainUnpickler, "dispatch", pickle._Unpickler.dispatch)
    with refuses(SchemaError, "os.system"):
        read_pickle(path)


@given(st.binary(max_size=60))
def test_any_bytes_are_judged_not_crashed_on(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("refs") / "refs.p"
    path.write_bytes(data)
    try:
        part = read(path)
    except SchemaError:
        return
    assert part.kind in ("boxes", "references", "instances", "detections")


def test_texts_of_python_2_are_bytes_in_some_encoding(tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(b"(lp0\n(dp1\nS'sent'\nS'caf\\xc3\\xa9'\nsS'raw'\nS'caf\\xe9'\nsS'ref_id'\nL7L\nsa.")
    assert read_pickle(path) == [{"sent": "café", "raw": "caf\ufffd", "ref_id": 7}]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ([{"ref_id": 1, "ann_id": 2, "image_id": 3}], "broken.json, row 0, split"),
        ({"annotations": [], "images": 3}, "broken.json, images"),
        ({"annotations": [{"id": 1, "bbox": 3}], "images": []}, "broken.json, annotations, row 0"),
        ({"annotations": [], "images": [{"id": 1}]}, "broken.json, images, row 0"),
        ({"7": [{"box": [1, 2, 3, 4]}]}, "broken.json, 7"),
        ("refs", "broken.json"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: Any, where: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(content))
    with refuses(SchemaError, where):
        read(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for name in ("refs.p", "dets.json"):
        with refuses(SchemaError, name):
            read(tmp_path / name)
