"""The report page, built from the outputs of the pipeline's stages."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from albef import html
from albef.data.files import new_folder
from albef.data.lists import Images, Lists, names_in
from albef.io import write_file
from albef.report import about, behavior, figures, model_cards, record, summary, training
from albef.report.search import searches
from albef.report.section import Block, Cell, Section, Table
from albef.report.source import ReportError, read_json
from albef.tasks import registry
from albef.tracking.origin import origin

_SCENES = 12  # training images to show


def _evaluations(artifacts: Path, images: Images, out: Path) -> list[tuple[str, list[Block]]]:
    """Return title and elements of the sections of all evaluated tasks.

    A task without its own section gets a table of its metrics.

    Raises:
        ReportError: If no task was evaluated, or a file is missing or malformed.
    """
    found = {path.parent.name: path.parent for path in artifacts.glob("evaluate/*/metrics.json")}
    if not found:
        raise ReportError(f"{artifacts / 'evaluate'}: no task with a metrics.json; run an evaluate stage first")
    sections: list[tuple[str, list[Block]]] = []
    known = registry.names()
    for task in [*(t for t in known if t in found), *sorted(set(found) - set(known))]:
        section = Section(task, found[task], images, out)
        title = registry.spec(task).title if task in known else f"Evaluation: {task}"
        if task in known and registry.provides(task, "report"):
            blocks = registry.module(task, "report").section(section)
        else:
            blocks = [Table(["metric", "value"], sorted(section.metrics().items()))]
        sections.append((title, [*blocks, *training.curve(section, artifacts / "finetune" / task)]))
    return sections


def _exports(artifacts: Path) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for path in sorted(artifacts.glob("export/*/parity.json")):
        parity = read_json(path)
        try:
            for graph, outputs in parity["graphs"].items():
                rows += [
                    [path.parent.name, graph, name, float(o["max_abs"]), float(parity["tolerance"])]
                    for name, o in outputs.items()
                ]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ReportError(f"{path}: not a report of the parity check: {error!r}") from error
    return rows


def _validated(artifacts: Path) -> dict[str, Any]:
    """Return rows by source of lists that have several, and dropped captions."""
    path = artifacts / "validated" / "report.json"
    if not path.is_file():
        return {"sources": [], "captions": []}
    report = read_json(path)
    try:
        sources = [
            [name, source, float(rows)]
            for name, counts in report["sources"].items()
            if len(counts) > 1
            for source, rows in counts.items()
        ]
        captions = [
            [name, reason.replace("_", " "), float(count), 100 * count / max(1, counts["captions"])]
            for name, counts in report["captions"].items()
            for reason, count in counts["dropped"].items()
            if count
        ]
        captions += [
            [
                name,
                "all captions of a row",
                float(counts["rows_dropped"]),
                100 * counts["rows_dropped"] / counts["rows"],
            ]
            for name, counts in report["captions"].items()
            if counts["rows_dropped"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{path}: not a report of `albef validate`: {error!r}") from error
    return {"sources": sources, "captions": captions}


def _data(lists: Lists, out: Path) -> dict[str, Any]:
    sizes = [[name, float(len(lists[name]))] for name in sorted(names_in(lists.folder))]
    shown = []
    if "pretrain" in lists:
        for row in lists["pretrain"][:_SCENES]:
            caption = row["caption"]
            shown.append((row["image"], caption if isinstance(caption, str) else caption[0]))
        figures.scenes(shown, lists.images, out / "scenes.png")
    return {"lists": sizes or None, "scenes": shown}


def _embedded(folder: Path, name: str) -> str:
    """Return an SVG file as markup, another image as an address with its content."""
    if name.endswith(".svg"):
        return Markup((folder / name).read_text(encoding="utf-8"))
    return f"data:image/png;base64,{base64.b64encode((folder / name).read_bytes()).decode()}"


def _decimal(value: float) -> str:
    return f"{value:g}" if value != 0 and abs(value) < 1e-3 else f"{value:.4f}".rstrip("0").rstrip(".")


def _summary(artifacts: Path, out: Path, previous: Mapping[str, float]) -> list[list[Cell]]:
    results = summary.results(artifacts)
    if results:
        summary.draw(results, out / "summary.svg")
    (out / "summary.txt").write_text(summary.as_text(results), encoding="utf-8")
    rows: list[list[Cell]] = [[r.task, r.metric, r.value, "-" if r.chance is None else r.chance] for r in results]
    return [[*row, previous.get(str(row[0]), "-")] for row in rows]


def _previous(headlines: dict[str, float], path: Path) -> dict[str, float]:
    """Keep the headline metrics of this run; return those of the last run with other ones."""
    kept: list[dict[str, float]] = read_json(path) if path.is_file() else []
    if headlines not in kept[-1:]:
        kept = [*kept[-1:], headlines]
        write_file(path, json.dumps(kept) + "\n")
    return kept[0] if len(kept) > 1 else {}


def write(
    artifacts: Path, images: Path, out: Path, params: Path | None = None, previous: Mapping[str, float] | None = None
) -> None:
    """Write the page and its figures; see `run`.

    Args:
        previous: Headline metrics of the previous run.
    """
    lists = Lists(artifacts / "validated" / "lists", images)
    environment = html.environment("albef.report")
    environment.filters["decimal"] = _decimal
    with new_folder(out) as folder:
        environment.filters["embedded"] = partial(_embedded, folder)
        model_cards.write(artifacts, folder, origin())
        evaluated = {path.parent.name for path in artifacts.glob("evaluate/*/metrics.json")}
        text = environment.get_template("page.html").render(
            evaluations=_evaluations(artifacts, lists.images, folder),
            about=about.rows(artifacts),
            parameters=None if params is None else about.changed_parameters(params),
            summary=_summary(artifacts, folder, previous or {}),
            behavior=behavior.blocks(artifacts),
            targets=behavior.pseudo_targets(artifacts, lists.images, folder),
            exports=_exports(artifacts),
            cards=sorted(path.name for path in folder.glob("*_card*.md")),
            **training.runs(artifacts, folder, evaluated),
            **searches(artifacts, folder),
            **_data(lists, folder),
            **_validated(artifacts),
        )
        (folder / "index.html").write_text(text, encoding="utf-8")


def run(
    artifacts: Path,
    images: Path,
    out: Path,
    metrics: Path | None = None,
    tracking_uri: str | None = "none",
    work_dir: Path = Path("scratch"),
    params: Path | None = None,
) -> None:
    """Write ``index.html``, its figures, cards and ``summary.txt``, then log them to MLflow.

    Args:
        artifacts: Folder of the pipeline's outputs: ``evaluate`` and, if present, ``pretrain``, ``text_assignment``,
            ``finetune``, ``tune``, ``export`` and ``validated``.
        images: Folder of the prepared data, or that image paths start from.
        out: Folder to write; an existing one is replaced once the new one is complete.
        metrics: File for the headline metric of each task, as JSON.
        tracking_uri: MLflow store; "none" disables tracking; None means ``MLFLOW_TRACKING_URI`` or a local SQLite file.
        work_dir: Folder for tracking data that MLflow has not accepted yet, and for the metrics of the previous run.
        params: Parameter file, whose changes are shown.

    Raises:
        ReportError: If a file is missing or malformed.
    """
    headlines = {result.task: round(result.value, 4) for result in summary.results(artifacts)}
    write(
        artifacts, images, out, params, None if metrics is None else _previous(headlines, work_dir / "headlines.json")
    )
    if metrics is not None:
        write_file(metrics, json.dumps(headlines, indent=1) + "\n")
    record.run(artifacts, images, out, tracking_uri, work_dir)
