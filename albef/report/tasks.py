"""A section of the page for every task that was evaluated."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from albef.report import answers, figures, html
from albef.report.cards import read_questions, read_references, read_statements
from albef.report.source import ReportError, read_examples, read_metrics


@dataclass(frozen=True)
class Section:
    """Where a section finds what it shows, and where its pictures go.

    Args:
        source: Folder of the task's evaluation.
        images: Folder that image paths start from.
        out: Folder of the page.
    """

    task: str
    source: Path
    images: Path
    out: Path

    @property
    def shown(self) -> Path:
        """Folder of the examples."""
        return self.source / "shown"

    def metrics(self) -> dict[str, float]:
        """Of the evaluation."""
        return read_metrics(self.source / "metrics.json")

    def picture(self, kind: str, draw: Callable[[Path], None], text: str) -> str:
        """Draw a picture and show it."""
        name = f"{self.task}_{kind}.png"
        draw(self.out / name)
        return html.picture(name, text)


def _percent(value: float | None) -> html.Cell:
    return "-" if value is None else 100 * value


def _accuracies(metrics: dict[str, float], chance: str) -> str:
    """All metrics that are accuracies, over all first, with what chance gives."""
    rows: list[list[html.Cell]] = []
    if "accuracy" in metrics:
        rows.append(["all", _percent(metrics["accuracy"])])
    parts = sorted(name for name in metrics if name.startswith("accuracy_"))
    rows += [[name.removeprefix("accuracy_").replace("_", " "), _percent(metrics[name])] for name in parts]
    if "chance" in metrics:
        rows.append([f"for comparison: {chance}", _percent(metrics["chance"])])
    return html.table(["of the test split", "accuracy %"], rows) if rows else html.note("No answers to compare with.")


def _retrieval(section: Section) -> list[str]:
    metrics = section.metrics()
    examples = read_examples(section.shown / "examples.json")
    rows: list[list[html.Cell]] = []
    for direction, short in {"text to image": "ir", "image to text": "tr"}.items():
        for stage, prefix in (("shortlist (ITC)", "itc_"), ("re-ranked (ITM)", "")):
            values = [metrics.get(f"{prefix}{short}_r{k}") for k in (1, 5, 10)]
            rows.append([direction, stage, *map(_percent, values)])
    figures.recalls(metrics, section.out / "recall.png")
    figures.text_to_image(examples.text_to_image, section.images, section.out / "text_to_image.png")
    figures.image_to_text(examples.image_to_text, section.images, section.out / "image_to_text.png")
    return [
        "<p>Test split: every caption against every image. The shortlist is ranked by the contrastive"
        " head (ITC), then re-ranked by the match head (ITM).</p>",
        html.table(["direction", "ranking", "R@1 %", "R@5 %", "R@10 %"], rows),
        html.picture("recall.png", "Recall of shortlist and re-ranking"),
        html.heading("Text to image", 3),
        html.note("The right image has a green frame; above each, its score."),
        html.picture("text_to_image.png", "Images found for captions"),
        html.heading("Image to text", 3),
        html.note("The right caption is green."),
        html.picture("image_to_text.png", "Captions found for images"),
    ]


def _vqa(section: Section) -> list[str]:
    shown = read_questions(section.shown / "examples.json")
    return [
        "<p>VQA accuracy: how many of ten people gave the model's answer, three or more of them being enough.</p>",
        _accuracies(section.metrics(), "the best single answer to all questions"),
        html.note("The best answers with their probabilities; what at least three people said is green."),
        section.picture(
            "examples", lambda path: answers.cards(shown, section.images, path), "Questions with the model's answers"
        ),
    ]


def _classification(section: Section) -> list[str]:
    shown = read_statements(section.shown / "examples.json")
    parts = [_accuracies(section.metrics(), "always the most frequent class")]
    table = section.source / "confusion.csv"
    if table.is_file():
        parts.append(_confusion(table))
    return [
        *parts,
        html.note("Classes with their probabilities; the right one is green."),
        section.picture(
            "examples", lambda path: answers.cards(shown, section.images, path), "Statements with the model's classes"
        ),
    ]


def _confusion(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            pairs = [(row["actual"], row["predicted"]) for row in csv.DictReader(file)]
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise ReportError(f"{path}: expected columns 'actual' and 'predicted': {error!r}") from error
    classes = sorted({name for pair in pairs for name in pair})
    rows = [[actual, *(float(pairs.count((actual, other))) for other in classes)] for actual in classes]
    return html.table(["actual / predicted", *classes], rows)


def _grounding(section: Section) -> list[str]:
    metrics = section.metrics()
    mode, shown = read_references(section.shown / "examples.json")
    rows: list[list[html.Cell]] = []
    for name in ("itm", "itc"):
        prefix = "" if name == mode else f"{name}_"
        label = {"itm": "match (ITM), fusion encoder", "itc": "similarity (ITC), image encoder"}[name]
        rows.append([label, *(_percent(metrics.get(f"{prefix}{kind}")) for kind in ("accuracy", "pointing"))])
        parts = sorted(key for key in metrics if key.startswith(f"{prefix}accuracy_"))
        rows += [[f"{label}: {key.removeprefix(f'{prefix}accuracy_')}", _percent(metrics[key]), "-"] for key in parts]
    rows.append(["for comparison: a random proposal", _percent(metrics.get("chance")), "-"])
    result = [
        "<p>No box is seen in training. Grad-CAM gives a heat map, and the proposal with most heat for its size is"
        " chosen. Accuracy: its IoU with the true box is at least 0.5. Pointing: the hottest pixel lies within it.</p>",
        html.table(["heat map of", "accuracy %", "pointing %"], rows),
        html.note("Heat maps of whole expressions; the true box is green, the chosen one red and dashed."),
        section.picture(
            "examples", lambda path: answers.references(shown, section.images, path), "Heat maps over pictures"
        ),
        html.note("What each word looks at, and the same boxes."),
    ]
    for number, reference in enumerate(shown):
        source, name = section.shown / reference.words, f"grounding_words_{number}.png"
        if not source.is_file():
            raise ReportError(f"{source}: missing; run the stage that writes it")
        shutil.copyfile(source, section.out / name)
        result.append(html.picture(name, f"Heat maps of the words of: {reference.text}"))
    return result


def _other(section: Section) -> list[str]:
    return [html.table(["metric", "value"], [[name, value] for name, value in sorted(section.metrics().items())])]


_SECTIONS: dict[str, tuple[str, Callable[[Section], list[str]]]] = {
    "retrieval": ("Image-text retrieval", _retrieval),
    "vqa": ("Visual question answering", _vqa),
    "entailment": ("Visual entailment", _classification),
    "nlvr2": ("NLVR2: statements about two pictures", _classification),
    "grounding": ("Visual grounding", _grounding),
}


def write(artifacts: Path, images: Path, out: Path) -> list[str]:
    """The sections of all tasks with an evaluation, in a fixed order; a task the report does not know has a table.

    Raises:
        ReportError: If there is none, or a file is missing or malformed.
    """
    found = {path.parent.name: path.parent for path in artifacts.glob("evaluate/*/metrics.json")}
    if not found:
        raise ReportError(f"{artifacts / 'evaluate'}: no task with a metrics.json; run an evaluate stage first")
    parts = []
    for task in [*(t for t in _SECTIONS if t in found), *sorted(set(found) - set(_SECTIONS))]:
        title, fill = _SECTIONS.get(task, (f"Evaluation: {task}", _other))
        parts += [html.heading(title), *fill(Section(task, found[task], images, out))]
    return parts
