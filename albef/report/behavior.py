"""Behavioral tests and the teacher's pseudo-targets in the report and the model cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from albef.data.lists import Images
from albef.report import cards
from albef.report.cards import Card
from albef.report.section import Block, Cell, Image, Table, Text, percent
from albef.report.source import malformed, read_json

_KINDS = {
    "MFT": "Minimum functionality: the output is right.",
    "INV": "Invariance: the output stays the same.",
    "DIR": "Direction: the output changes as it should.",
}
_WORDS = 5  # of each end


def results(artifacts: Path, task: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of the behavioral tests of one task or all.

    There are none without the stage's output.

    Raises:
        ReportError: If the file is malformed.
    """
    path = artifacts / "behavior" / "tests.json"
    found = read_json(path) if path.is_file() else {"tests": []}
    try:
        return [row | {"kind": str(row["kind"])} for row in found["tests"] if task in (None, row["task"])]
    except (KeyError, TypeError) as error:
        raise malformed(path, "the behavioral tests", error) from error


def blocks(artifacts: Path) -> list[Block]:
    """Return tables of the tests, and of the words told apart best and worst."""
    path = artifacts / "behavior" / "tests.json"
    rows = results(artifacts)
    if not rows:
        return []
    result: list[Block] = [
        Text(
            "Rows of the test lists are changed in a way that must, or must not, change the output. Passed cases in "
            "percent, ± the standard error, and their number; a test without cases does not apply to the data."
        )
    ]
    try:
        for kind, about in _KINDS.items():
            result += [Text(about, "heading"), _table([row for row in rows if row["kind"] == kind])]
        header = ["test", "task", "cases", "passed %", "± %", "a failure"]
        cells = [
            [r["test"], r["task"], float(r["cases"]), percent(r["rate"]), percent(r["error"]), r["failure"] or "-"]
            for r in rows
        ]
        result.append(Table(header, cells, "All tests, with a failure of each"))
        counts = [(w["word"], w["task"], float(w["cases"]), w["passed"]) for w in read_json(path)["words"]]
        words = [[word, task, cases, 100 * passed / cases] for word, task, cases, passed in counts]
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise malformed(path, "the behavioral tests", error) from error
    ranked = sorted(words, key=lambda row: row[-1])
    if ranked:
        shown = ranked if len(ranked) <= 2 * _WORDS else [*ranked[:_WORDS], *ranked[-_WORDS:]]
        result += [
            Text("Words told apart worst and best", "heading"),
            Text(
                "How often a text fits better than the same text with the word replaced by another of its kind.", "note"
            ),
            Table(["word", "task", "comparisons", "passed %"], shown),
        ]
    return result


def _table(rows: list[dict[str, Any]]) -> Table:
    """Return a table of tests by task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    names = {row["test"]: row["about"] for row in reversed(rows)}
    cells: dict[str, dict[str, Cell]] = {name: dict.fromkeys(tasks, "") for name in sorted(names)}
    for row in rows:
        passed = f"{100 * row['rate']:.0f} ± {100 * row['error']:.0f} ({row['cases']})" if row["cases"] else "-"
        cells[row["test"]][row["task"]] = passed
    return Table(["test", *tasks], [[f"{name}: {names[name]}", *found.values()] for name, found in cells.items()])


def pseudo_targets(artifacts: Path, images: Images, out: Path) -> list[Block]:
    """Return figures of the teacher's words and texts; none without the stage's output.

    Raises:
        ReportError: If the file is malformed.
    """
    path = artifacts / "behavior" / "pseudo_targets.json"
    rows = read_json(path) if path.is_file() else []
    try:
        words = [
            Card([r["image"]], r["text"], [(w, float(p), w == r["word"]) for w, p in r["words"]], r["word"])
            for r in rows
        ]
        texts = [
            Card([r["image"]], "", [(t, float(p), t in r["captions"]) for t, p in r["texts"]], r["captions"][0])
            for r in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise malformed(path, "pseudo-targets", error) from error
    if not rows:
        return []
    cards.draw(words, images, out / "pseudo_words.png")
    cards.draw(texts, images, out / "pseudo_texts.png", columns=1)
    return [
        Text("Pseudo-targets", "heading"),
        Text(
            "Outputs of the momentum teacher that the student learned from, beside the caption: words in place of a "
            "masked one, and captions for the image, with probabilities. The given word or caption is green; it may be "
            "noise."
        ),
        Image("pseudo_words.png", "Masked captions with the teacher's words"),
        Image("pseudo_texts.png", "Images with the captions that the teacher finds most similar"),
    ]
