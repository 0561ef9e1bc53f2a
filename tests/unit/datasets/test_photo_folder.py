"""Tests of folders of images with captions."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from albef.data.schema import SchemaError
from albef.datasets import photo_folder
from tests.errors import refuses
from tests.photos import csv_text, photo, write_photos

PAIRS = [{"image": f"{n:03}.jpg", "caption": f"a photo of thing {n}"} for n in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photos without captions."""
    return write_photos(tmp_path / "photos", 3)


def rows(folder: Path, **columns: str) -> list[dict[str, str]]:
    return list(photo_folder.rows(folder, **columns))


def test_metadata_csv(folder: Path) -> None:
    (folder / "metadata.csv").write_text(csv_text(3))
    assert rows(folder) == PAIRS


def test_metadata_jsonl_with_several_captions(folder: Path) -> None:
    lines = [{"file_name": "000.jpg", "captions": ["one", "two"]}, {"file_name": "001.jpg", "captions": "three"}]
    (folder / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    assert rows(folder) == [
        {"image": "000.jpg", "caption": "one"},
        {"image": "000.jpg", "caption": "two"},
        {"image": "001.jpg", "caption": "three"},
    ]


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".tsv"])
@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_the_table_of_a_spreadsheet(folder: Path, suffix: str, delimiter: str) -> None:
    lines = ["Bild;Beschreibung;Notiz", '000.jpg;"Ein Foto; mit ""Zitat"", ja\tund\nzwei Zeilen";', "001.jpg;Süß;x", ""]
    text = "\ufeff" + "\r\n".join(line.replace(";", delimiter) if '"' not in line else line for line in lines)
    text = text.replace('000.jpg;"', f'000.jpg{delimiter}"').replace('Zeilen";', f'Zeilen"{delimiter}')
    (folder / f"Fotos{suffix}").write_bytes(text.encode())
    assert rows(folder, image="Bild", caption="beschreibung") == [
        {"image": "000.jpg", "caption": 'Ein Foto; mit "Zitat", ja\tund\nzwei Zeilen'},
        {"image": "001.jpg", "caption": "Süß"},
    ]


def test_a_quoted_header_hides_other_separators(folder: Path) -> None:
    (folder / "metadata.csv").write_text('"file_name","text","a;b;c;d"\n000.jpg,fine,\n')
    assert rows(folder) == [{"image": "000.jpg", "caption": "fine"}]


def test_text_files_in_folders_with_spaces_and_umlauts(tmp_path: Path) -> None:
    place = tmp_path / "Süße Photos" / "a b"
    write_photos(place, 3, ".JPG")
    (place / "000.txt").write_bytes("\ufeffein Bär\r\n\r\n  zwei Bären \n".encode())
    (place / "001.TXT").write_text("drei")
    (place / "notes.txt").write_text("no photo has this name")
    assert rows(tmp_path) == [
        {"image": "Süße Photos/a b/000.JPG", "caption": "ein Bär"},
        {"image": "Süße Photos/a b/000.JPG", "caption": "zwei Bären"},
        {"image": "Süße Photos/a b/001.JPG", "caption": "drei"},
    ]


def test_an_image_has_one_path_however_it_is_spelled(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / unicodedata.normalize("NFD", "ü.jpg")).write_bytes(photo(3))
    names = ["sub/../000.jpg", "./000.jpg", str(folder / "000.jpg"), ".\\000.jpg", "sub\\ü.jpg", "sub/ü.jpg"]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps({"file": name, "text": "x"}) for name in names))
    assert {row["image"] for row in rows(folder)} == {"000.jpg", unicodedata.normalize("NFD", "sub/ü.jpg")}


def test_paths_of_a_relative_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "metadata.csv").write_text(csv_text(3))
    monkeypatch.chdir(folder)
    assert rows(Path()) == rows(Path("../photos")) == PAIRS


@pytest.mark.parametrize("name", ["../000.jpg", "/etc/passwd", "a/../../b.jpg", "../photos2/000.jpg"])
def test_images_outside_the_folder_are_refused(folder: Path, name: str) -> None:
    (folder / "metadata.csv").write_text(csv_text(1) + f"{name},x\n")
    with refuses(SchemaError, "metadata.csv, line 3", name, "below"):
        rows(folder)


@given(name=st.text(min_size=1))
def test_no_name_of_a_file_fails_otherwise(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "x"}))
    try:
        (row,) = rows(folder)
    except SchemaError as error:
        assert "below" in str(error)  # noqa: PT017
    else:
        assert not os.path.relpath(folder / row["image"], folder).startswith("../")


def test_what_is_no_text_is_left_to_the_validation(folder: Path) -> None:
    lines = [{"file_name": "000.jpg", "text": [["nested"], 3, None, "fine"]}, {"file_name": [7], "text": {}}]
    lines += [{"file_name": "x" * 5000, "text": []}, {"file_name": "a\0b", "text": "\ud83d"}, {}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [(row["image"][:9], row["caption"]) for row in rows(folder)] == [
        *[("000.jpg", text) for text in ("", "", "", "fine")],
        ("", ""),
        ("xxxxxxxxx", ""),
        ("a\0b", "\ud83d"),
        ("", ""),
    ]


CSV, JSONL = "metadata.csv", "metadata.jsonl"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (CSV, "a,b\n1,2\n", ["image", "file_name", "a, b", "prepare.pairs.image", "--image"]),
        (CSV, "file,b\n1,2\n", ["caption", "prepare.pairs.caption"]),
        (CSV, "file_name,text,text\n1,2,3\n", ["2 columns", "text", "rename"]),
        (CSV, "file_name,text\na.jpg,x\na.jpg,one, two\n", ["line 3", "3 fields", "2", "quotation marks"]),
        (CSV, 'file_name,text\na.jpg,"open\nb.jpg,x\n', ["line 2", "close each quotation mark"]),
        (CSV, 'file_name,text\na.jpg,"a "word" b"\n', ["line 2", "double those"]),
        (CSV, "file_name,text\na.jpg," + "x" * 200_000 + "\n", ["line 2", "field limit"]),
        (CSV, "file_name,text\na.jpg,Tür\n".encode("latin-1"), ["0xfc", "UTF-8"]),
        (CSV, csv_text().encode("utf-16"), ["0xff", "UTF-8"]),
        (JSONL, '{"file_name": "a.jpg", "text": "x"}\n[1, 2]\n', ["line 2", "JSON object", "[1, 2]"]),
        (JSONL, '{"file_name": "a.jpg"\n', ["line 1", "not valid JSON"]),
        (JSONL, '{"text": ' + "[" * 10**5 + "]" * 10**5 + "}", ["line 1", "not valid JSON"]),
        (JSONL, b'{"text": "\xfc"}', ["0xfc", "UTF-8"]),
    ],
    ids=range(13),
)
def test_a_bad_table_is_named(folder: Path, name: str, content: str | bytes, expected: list[str]) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SchemaError) as caught:
        rows(folder)
    message = str(caught.value)
    assert message.startswith(str(folder / name))
    assert "\n" not in message
    for part in expected:
        assert part in message


def test_a_row_that_ends_early_has_an_empty_caption(folder: Path) -> None:
    (folder / CSV).write_text("file_name,text,note\n000.jpg\n\n001.jpg,x,,,\n")
    assert [row["caption"] for row in rows(folder)] == ["", "x"]


def test_several_tables_are_refused_unless_one_is_metadata(folder: Path) -> None:
    for name in ("a.csv", "b.jsonl"):
        (folder / name).write_text(csv_text(3))
    with refuses(SchemaError, folder, "a.csv, b.jsonl", "metadata.csv"):
        rows(folder)
    (folder / CSV).write_text(csv_text(3))
    assert rows(folder) == PAIRS
    (folder / JSONL).write_text("")
    with refuses(SchemaError, CSV, JSONL):
        rows(folder)


def test_a_table_that_is_no_file(folder: Path) -> None:
    (folder / CSV).mkdir()
    with refuses(SchemaError, folder / CSV, "Is a directory"):
        rows(folder)


@pytest.mark.parametrize(
    ("files", "found"),
    [([], "no files"), (["a.jpg", "b.JPG", "README"], ".jpg files"), (["a.heic", "a.txt"], ".heic, .txt files")],
)
def test_a_folder_without_captions(tmp_path: Path, files: list[str], found: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    with refuses(SchemaError, tmp_path, found, "metadata.csv", "metadata.jsonl", "file_name", "a.txt", ".jpeg"):
        rows(tmp_path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_text_file_of_another_encoding(folder: Path, encoding: str) -> None:
    (folder / "001.txt").write_bytes("schön".encode(encoding))
    with refuses(SchemaError, folder / "001.txt", "UTF-8"):
        rows(folder)


def test_a_file_name_of_another_encoding(folder: Path) -> None:
    for suffix in (b".jpg", b".txt"):
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff" + suffix)).write_bytes(b"x")
    with refuses(SchemaError, folder, "not UTF-8"):
        rows(folder)


def test_links_to_folders_are_not_followed_around(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)
    (folder / "gone.jpg").symlink_to("nothing.jpg")
    (folder / "also.jpg").symlink_to("000.jpg")
    for name in ("000", "gone", "also"):
        (folder / f"{name}.txt").write_text(name)
    assert [row["image"] for row in rows(folder)] == ["000.jpg", "also.jpg"]
