"""The report page, built from the outputs of the pipeline's stages."""

from __future__ import annotations

import shutil
from pathlib import Path

from albef.data.files import image_root, new_folder
from albef.data.schema import read_list
from albef.report import figures, html, record
from albef.report.section import Section
from albef.report.source import ReportError, read_history, read_json, read_metrics
from albef.tasks import registry

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


def _evaluations(artifacts: Path, images: Path, out: Path) -> list[str]:
    """Return the sections of all evaluated tasks.

    A task without its own section gets a table of its metrics.

    Raises:
        ReportError: If no task was evaluated, or a file is missing or malformed.
    """
    found = {path.parent.name: path.parent for path in artifacts.glob("evaluate/*/metrics.json")}
    if not found:
        raise ReportError(f"{artifacts / 'evaluate'}: no task with a metrics.json; run an evaluate stage first")
    parts: list[str] = []
    known = registry.names()
    for task in [*(t for t in known if t in found), *sorted(set(found) - set(known))]:
        section = Section(task, found[task], images, out)
        title = registry.spec(task).title if task in known else f"Evaluation: {task}"
        parts.append(html.heading(title))
        if task in known and registry.provides(task, "report"):
            parts += registry.module(task, "report").section(section)
        else:
            parts.append(html.table(["metric", "value"], sorted(section.metrics().items())))
    return parts


def _training(artifacts: Path, out: Path) -> list[str]:
    runs = _runs(artifacts)
    if not runs:
        return []
    figures.curves({name: read_history(folder / "history.csv") for name, folder in runs.items()}, out / "losses.png")
    rows: list[list[html.Cell]] = [
        [name, metric, value]
        for name, folder in runs.items()
        for metric, value in sorted(read_metrics(folder / "metrics.json").items())
    ]
    return [
        html.heading("Training"),
        html.image("losses.png", "Losses over steps"),
        "<details><summary>Final values</summary>",
        html.table(["run", "metric", "value"], rows),
        "</details>",
    ]


def _searches(artifacts: Path, out: Path) -> list[str]:
    parts: list[str] = []
    rows: list[list[html.Cell]] = []
    for path in sorted(artifacts.glob("tune/*/metrics.json")):
        metrics, task = read_metrics(path), path.parent.name
        name = next((key for key in metrics if f"{key}_before" in metrics), None)
        if name is None:
            continue  # the search was disabled
        rows.append([task, name, metrics[f"{name}_before"], metrics[name], metrics.get("trials", 0.0)])
        plot = path.parent / "plots" / "parallel.png"
        if plot.is_file():
            shutil.copyfile(plot, out / f"{task}_search.png")
            parts.append(html.image(f"{task}_search.png", f"Settings tried for {task}, the best in red"))
    if not rows:
        return []
    header = ["task", "validation metric", "before", "best", "settings tried"]
    note = "Settings are compared on a part of the training list; fine-tuning uses the best one."
    return [html.heading("Search"), html.note(note), html.table(header, rows), *parts]


def _exports(artifacts: Path) -> list[str]:
    rows: list[list[html.Cell]] = []
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
    if not rows:
        return []
    return [
        html.heading("Export"),
        "<p>Largest absolute difference between ONNX Runtime and PyTorch.</p>",
        html.table(["task", "graph", "output", "difference", "allowed"], rows),
    ]


def _data(artifacts: Path, root: Path, out: Path) -> list[str]:
    lists = artifacts / "validated" / "lists"
    contents = {path.stem: read_json(path) for path in sorted(lists.glob("*.json"))}
    if not contents:
        return []
    parts = [html.heading("Data")]
    if "pretrain" in contents:
        shown = []
        for row in read_list(lists / "pretrain.json")[:_SCENES]:
            caption = row["caption"]
            shown.append((row["image"], caption if isinstance(caption, str) else caption[0]))
        figures.scenes(shown, root, out / "scenes.png")
        parts += [
            html.image("scenes.png", "Training images with captions"),
            "<p class=note>Training captions contain artificial noise if <code>caption_noise</code> is above 0.</p>",
        ]
    sizes: list[list[html.Cell]] = [
        [name, float(len(rows))] for name, rows in contents.items() if isinstance(rows, list)
    ]
    return [
        *parts,
        html.table(["list", "rows"], sizes),
        '<p><a href="../validated/docs/index.html">Data docs</a> of the validation stage.</p>',
    ]


def write(artifacts: Path, images: Path, out: Path) -> None:
    """Write the page and its figures; see `run`."""
    root = image_root(images)
    with new_folder(out) as folder:
        parts = [
            html.heading("ALBEF report", 1),
            *_evaluations(artifacts, root, folder),
            *_training(artifacts, folder),
            *_searches(artifacts, folder),
            *_exports(artifacts),
            *_data(artifacts, root, folder),
        ]
        (folder / "index.html").write_text(html.document(parts), encoding="utf-8")


def run(
    artifacts: Path, images: Path, out: Path, tracking_uri: str | None = "none", work_dir: Path = Path("scratch")
) -> None:
    """Write ``index.html`` and its figures, then log them to MLflow.

    Args:
        artifacts: Folder of the pipeline's outputs: ``evaluate`` and, if present, ``pretrain``, ``text_assignment``,
            ``finetune``, ``tune``, ``export`` and ``validated``.
        images: Folder that image paths are relative to.
        out: Folder to write; an existing one is replaced once the new one is complete.
        tracking_uri: MLflow store; "none" disables tracking; None means ``MLFLOW_TRACKING_URI`` or a local SQLite file.
        work_dir: Folder for tracking data that MLflow has not accepted yet.

    Raises:
        ReportError: If a file is missing or malformed.
    """
    write(artifacts, images, out)
    record.run(artifacts, images, out, tracking_uri, work_dir)
