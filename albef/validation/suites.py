"""The expectations of every kind of list, in Great Expectations."""

from __future__ import annotations

from typing import Any

import pandas as pd

from albef.config import ValidateConfig
from albef.data.schema import NLVR_LABELS, VE_LABELS


def expectations(e: Any, config: ValidateConfig, kind: str, table: pd.DataFrame) -> list[Any]:
    """The suite of a list of ``kind``; ``e`` is ``great_expectations.expectations``."""
    everywhere = {"severity": "critical"}

    def clean(column: str, name: str, notes: str) -> Any:
        return e.ExpectColumnValuesToBeNull(column=column, meta={"name": name}, notes=notes, **everywhere)

    def between(column: str, name: str, **bounds: Any) -> Any:
        return e.ExpectColumnValuesToBeBetween(column=column, meta={"name": name}, **bounds, **everywhere)

    found = [
        e.ExpectTableRowCountToBeBetween(min_value=1, meta={"name": "not_empty"}, **everywhere),
        clean("schema_problem", "schema", "Every record has the fields of the official format."),
        clean("image_problem", "image_readable", "Every picture exists and decodes."),
        between("smallest_side", "image_not_small", min_value=config.min_image_side),
        between("largest_side", "image_not_large", max_value=config.max_image_side),
        between("fewest_words", "text_not_empty", min_value=1),
        between("most_words", "text_not_long", max_value=config.max_caption_words),
        clean("id_problem", "ids_unique", "No id stands for two things."),
        clean("leak_problem", "no_leakage", "No evaluation uses a picture of this list."),
    ]
    if "label" in table:
        labels = list(VE_LABELS if kind == "ve" else NLVR_LABELS)
        found += [
            e.ExpectColumnValuesToBeInSet(column="label", value_set=labels, meta={"name": "label_known"}, **everywhere),
            e.ExpectColumnMaxToBeBetween(
                column="label_share",
                max_value=config.max_label_share,
                meta={"name": "labels_balanced"},
                notes="Share of the most frequent label.",
                **everywhere,
            ),
        ]
    if "answer_known" in table:
        # Of the list, not of a record: people also answer what few others do, and such questions count in VQA.
        found.append(
            e.ExpectColumnMeanToBeBetween(
                column="answer_known",
                min_value=config.min_known_answers,
                meta={"name": "answers_known"},
                notes="Share of questions whose usual answer is in the answer list.",
                **everywhere,
            )
        )
    if "box_problem" in table:
        found.append(clean("box_problem", "boxes_known", "Every expression has a true box and proposals."))
    return found
