from __future__ import annotations

from albef.validation.image_stats import ImageStats
from albef.validation.leakage import find_leaks, held_out_lists


def test_what_a_list_must_keep_away_from() -> None:
    assert set(held_out_lists("retrieval_train")) == {"retrieval_val", "retrieval_test"}
    assert held_out_lists("vqa_val") == ("vqa_test",)
    assert held_out_lists("vqa_test") == ()
    assert {"retrieval_val", "grounding_test", "nlvr_test"} <= set(held_out_lists("pretrain"))
    # Official fine-tunes share images across tasks: COCO train is VQA val.
    assert "vqa_val" not in held_out_lists("retrieval_train")


def test_the_same_content_or_path_leaks() -> None:
    def stats(content: bytes, problem: str | None = None) -> ImageStats:
        return ImageStats(1, 1, content, problem)

    images = {"a": stats(b"1"), "b": stats(b"2"), "c": stats(b"1"), "d": stats(b"", "d: broken")}
    lists = {
        "nlvr_train": [{"images": ["b", "a"]}, {"images": ["b", "b"]}, None, {"images": ["b", "d"]}],
        "nlvr_test": [{"images": ["c", "c"]}, None, {"images": ["d", "d"]}],
    }
    found = find_leaks("nlvr_train", lists, images)
    assert found == [
        "a has the same content as an image of nlvr_test, row 0",
        None,
        None,
        "d has the same content as an image of nlvr_test, row 2",
    ]
    assert find_leaks("nlvr_test", lists, images) == [None, None, None]


def test_two_broken_images_are_not_the_same() -> None:
    broken = {"a": ImageStats(0, 0, b"", "a: broken"), "b": ImageStats(0, 0, b"", "b: broken")}
    lists = {"retrieval_train": [{"image": "a"}], "retrieval_test": [{"image": "b"}]}
    assert find_leaks("retrieval_train", lists, broken) == [None]
