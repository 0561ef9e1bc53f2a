"""Expectation suites of all kinds of lists."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from albef.config import ValidateConfig
from albef.data.schema import NLVR_LABELS, VE_LABELS


def of_sums(e: Any, config: ValidateConfig, sums: Collection[str]) -> list[Any]:
    """Return the expectations on the sums of a list.

    Args:
        e: Module ``great_expectations.expectations``.
        sums: Columns of `albef.validation.features.Features.sums`.
    """
    suite = [
        e.ExpectColumnMinToBeBetween(
            column="rows", min_value=1, meta={"name": "not_empty"}, notes="The list has records.", severity="critical"
        )
    ]
    if "label_share" in sums:
        suite.append(
            e.ExpectColumnMaxToBeBetween(
                column="label_share",
                max_value=config.max_label_share,
                meta={"name": "labels_balanced"},
                notes=f"The largest share of a label is at most validate.max_label_share = {config.max_label_share}.",
                severity="critical",
            )
        )
    if "answer_known" in sums:
        # An expectation on the list rather than on records: questions with rare answers also count in VQA.
        suite.append(
            e.ExpectColumnMeanToBeBetween(
                column="answer_known",
                min_value=config.min_known_answers,
                meta={"name": "answers_known"},
                notes=f"A share of validate.min_known_answers = {config.min_known_answers} of the questions has "
                "its most frequent answer in the answer list.",
                severity="critical",
            )
        )
    return suite


def of_records(e: Any, config: ValidateConfig, kind: str, columns: Collection[str]) -> list[Any]:
    """Return the expectations on the records of a list.

    Args:
        e: Module ``great_expectations.expectations``.
        kind: Kind of the list, a key of `albef.data.schema.SCHEMAS`.
        columns: Columns that only some lists have.
    """
    severity = {"severity": "critical"}

    def empty(column: str, name: str, notes: str) -> Any:
        return e.ExpectColumnValuesToBeNull(column=column, meta={"name": name}, notes=notes, **severity)

    def between(column: str, name: str, **bounds: Any) -> Any:
        return e.ExpectColumnValuesToBeBetween(column=column, meta={"name": name}, **bounds, **severity)

    sides = (
        f"Sides have at least validate.min_image_side = {config.min_image_side} pixels.",
        f"Sides have at most validate.max_image_side = {config.max_image_side} pixels.",
    )
    leaks = f"No held-out list has an image within validate.max_hash_distance = {config.max_hash_distance} of one here."
    long = f"Texts have at most validate.max_caption_words = {config.max_caption_words} words."
    suite = [
        empty("schema_problem", "schema", "Every record has the fields of the official format."),
        empty("image_problem", "image_readable", "Every image exists and can be decoded."),
        between("smallest_side", "image_not_small", min_value=config.min_image_side, notes=sides[0]),
        between("largest_side", "image_not_large", max_value=config.max_image_side, notes=sides[1]),
        between("fewest_words", "text_not_empty", min_value=1, notes="Every text has a word."),
        between("most_words", "text_not_long", max_value=config.max_caption_words, notes=long),
        empty("id_problem", "ids_unique", "Ids are unique."),
        empty("leak_problem", "no_leakage", leaks),
    ]
    if "label" in columns:
        labels = list(VE_LABELS if kind == "ve" else NLVR_LABELS)
        suite.append(
            e.ExpectColumnValuesToBeInSet(
                column="label",
                value_set=labels,
                meta={"name": "label_known"},
                notes=f"Labels are {', '.join(labels)}.",
                **severity,
            )
        )
    if "box_problem" in columns:
        suite.append(empty("box_problem", "boxes_known", "Every expression has a true box and proposals."))
    return suite
