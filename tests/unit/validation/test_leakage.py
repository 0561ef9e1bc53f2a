from __future__ import annotations

from albef.validation.image_stats import Picture
from albef.validation.leakage import guards, leaks


def test_what_a_list_must_keep_away_from() -> None:
    assert set(guards("retrieval_train")) == {"retrieval_val", "retrieval_test"}
    assert guards("vqa_val") == ("vqa_test",)
    assert guards("vqa_test") == ()
    assert {"retrieval_val", "grounding_test", "nlvr_test"} <= set(guards("pretrain"))
    # Official fine-tunes share pictures across tasks: COCO train is VQA val.
    assert "vqa_val" not in guards("retrieval_train")


def test_the_same_content_or_path_leaks() -> None:
    def picture(content: bytes, problem: str | None = None) -> Picture:
        return Picture(1, 1, content, problem)

    pictures = {"a": picture(b"1"), "b": picture(b"2"), "c": picture(b"1"), "d": picture(b"", "d: broken")}
    lists = {
        "nlvr_train": [{"images": ["b", "a"]}, {"images": ["b", "b"]}, None, {"images": ["b", "d"]}],
        "nlvr_test": [{"images": ["c", "c"]}, None, {"images": ["d", "d"]}],
    }
    found = leaks("nlvr_train", lists, pictures)
    assert found == [
        "a is the picture of nlvr_test.json, row 0",
        None,
        None,
        "d is the picture of nlvr_test.json, row 2",
    ]
    assert leaks("nlvr_test", lists, pictures) == [None, None, None]


def test_two_broken_pictures_are_not_the_same() -> None:
    broken = {"a": Picture(0, 0, b"", "a: broken"), "b": Picture(0, 0, b"", "b: broken")}
    lists = {"retrieval_train": [{"image": "a"}], "retrieval_test": [{"image": "b"}]}
    assert leaks("retrieval_train", lists, broken) == [None]
