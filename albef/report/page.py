"""The report page, built from the outputs of the pipeline's stages."""

from __future__ import annotations

import base64
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from albef import html
from albef.data.files import new_folder
from albef.data.lists import Images, Lists, names_in
from albef.io import write_file
from albef.report import figures, model_cards, record, summary
from albef.report.section import Block, Cell, Section, Table
from albef.report.source import ReportError, read_history, read_json, read_metrics
from albef.tasks import registry
from albef.tracking.origin import origin

_SCENES = 12  # training images to show


def _runs(artifacts: Path) -> dict[str, Path]:
    """Return the folders of training runs by display name, in pipeline order."""
    folders = {"pretrain": artifacts / "pretrain", "text assignment": artifacts / "text_assignment"}
    folders |= {f"finetune {folder.name}": folder for folder in sorted(artifacts.glob("finetune/*"))}
    return {
        name: folder
        for name, folder in folders.items()
        if any((folder / file).is_file() for file in ("history.csv", "metrics.json"))
    }


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
            sections.append((title, registry.module(task, "report").section(section)))
        else:
            sections.append((title, [Table(["metric", "value"], sorted(section.metrics().items()))]))
    return sections


def _training(artifacts: Path, out: Path) -> list[list[Cell]] | None:
    runs = _runs(artifacts)
    if not runs:
        return None
    figures.curves({name: read_history(folder / "history.csv") for name, folder in runs.items()}, out / "losses.png")
    return [
        [name, metric, value]
        for name, folder in runs.items()
        for metric, value in sorted(read_metrics(folder / "metrics.json").items())
    ]


def _searches(artifacts: Path, out: Path) -> dict[str, Any]:
    plots: dict[str, str] = {}
    rows: list[list[Cell]] = []
    for path in sorted(artifacts.glob("tune/*/metrics.json")):
        metrics, task = read_metrics(path), path.parent.name
        name = next((key for key in metrics if f"{key}_before" in metrics), None)
        if name is None:
            continue  # the search was disabled
        rows.append([task, name, metrics[f"{name}_before"], metrics[name], metrics.get("trials", 0.0)])
        plot = path.parent / "plots" / "parallel.png"
        if plot.is_file():
            plots[task] = f"{task}_search.png"
            shutil.copyfile(plot, out / plots[task])
    return {"searches": rows, "plots": plots}


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
    """Return the address of an image that the page contains."""
    return f"data:image/png;base64,{base64.b64encode((folder / name).read_bytes()).decode()}"


def _decimal(value: float) -> str:
    return f"{value:g}" if value != 0 and abs(value) < 1e-3 else f"{value:.4f}".rstrip("0").rstrip(".")


def _summary(artifacts: Path, out: Path) -> list[list[Cell]]:
    results = summary.results(artifacts)
    if results:
        summary.draw(results, out / "summary.png")
    (out / "summary.txt").write_text(summary.as_text(results), encoding="utf-8")
    return [[r.task, r.metric, r.value, "-" if r.chance is None else r.chance] for r in results]


def write(artifacts: Path, images: Path, out: Path) -> None:
    """Write the page and its figures; see `run`."""
    lists = Lists(artifacts / "validated" / "lists", images)
    environment = html.environment("albef.report")
    environment.filters["decimal"] = _decimal
    with new_folder(out) as folder:
        environment.filters["embedded"] = partial(_embedded, folder)
        model_cards.write(artifacts, folder, origin())
        text = environment.get_template("page.html").render(
            commit=origin().get("git_commit"),
            summary=_summary(artifacts, folder),
            evaluations=_evaluations(artifacts, lists.images, folder),
            runs=_training(artifacts, folder),
            exports=_exports(artifacts),
            cards=sorted(path.name for path in folder.glob("*_card*.md")),
            **_searches(artifacts, folder),
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
) -> None:
    """Write ``index.html``, its figures, cards and ``summary.txt``, then log them to MLflow.

    Args:
        artifacts: Folder of the pipeline's outputs: ``evaluate`` and, if present, ``pretrain``, ``text_assignment``,
            ``finetune``, ``tune``, ``export`` and ``validated``.
        images: Folder of the prepared data, or that image paths start from.
        out: Folder to write; an existing one is replaced once the new one is complete.
        metrics: File for the headline metric of each task, as JSON.
        tracking_uri: MLflow store; "none" disables tracking; None means ``MLFLOW_TRACKING_URI`` or a local SQLite file.
        work_dir: Folder for tracking data that MLflow has not accepted yet.

    Raises:
        ReportError: If a file is missing or malformed.
    """
    write(artifacts, images, out)
    if metrics is not None:
        headlines = {result.task: round(result.value, 4) for result in summary.results(artifacts)}
        write_file(metrics, json.dumps(headlines, indent=1) + "\n")
    record.run(artifacts, images, out, tracking_uri, work_dir)
