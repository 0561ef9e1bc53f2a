"""The page: reads what the stages wrote, draws the pictures and writes ``index.html`` beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

from albef.data.files import image_root, new_folder
from albef.data.schema import read_list
from albef.report import figures, html, tasks
from albef.report.source import ReportError, read_history, read_json, read_metrics

_SCENES = 12


def _runs(artifacts: Path) -> dict[str, Path]:
    """Folders of all training runs by what to call them, in the order of the pipeline."""
    places = {"pretrain": artifacts / "pretrain", "text assignment": artifacts / "text_assignment"}
    places |= {f"finetune {folder.name}": folder for folder in sorted(artifacts.glob("finetune/*"))}
    return {
        name: folder
        for name, folder in places.items()
        if any((folder / file).is_file() for file in ("history.csv", "metrics.json"))
    }


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
        html.picture("losses.png", "Losses over steps"),
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
            continue  # no trial, no search
        rows.append([task, name, metrics[f"{name}_before"], metrics[name], metrics.get("trials", 0.0)])
        plot = path.parent / "plots" / "parallel.png"
        if plot.is_file():
            shutil.copyfile(plot, out / f"{task}_search.png")
            parts.append(html.picture(f"{task}_search.png", f"Settings of {task} that were tried, the best in red"))
    if not rows:
        return []
    header = ["task", "of the validation split", "as it was", "best", "settings tried"]
    note = "Each setting on a part of the training list; fine-tuning takes the best."
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
            raise ReportError(f"{path}: not the report of a parity gate: {error!r}") from error
    if not rows:
        return []
    return [
        html.heading("Export"),
        "<p>Largest absolute difference between ONNX Runtime and PyTorch.</p>",
        html.table(["task", "graph", "output", "difference", "allowed"], rows),
    ]


def _data(artifacts: Path, root: Path, out: Path) -> list[str]:
    lists = artifacts / "validated" / "lists"
    every = {path.stem: read_json(path) for path in sorted(lists.glob("*.json"))}
    if not every:
        return []
    parts = [html.heading("Data")]
    if "pretrain" in every:
        shown = []
        for record in read_list(lists / "pretrain.json")[:_SCENES]:
            caption = record["caption"]
            shown.append((record["image"], caption if isinstance(caption, str) else caption[0]))
        figures.scenes(shown, root, out / "scenes.png")
        parts += [
            html.picture("scenes.png", "Training pictures with a caption each"),
            "<p class=note>Training captions are noisy on purpose where <code>caption_noise</code> is above 0.</p>",
        ]
    sizes: list[list[html.Cell]] = [[name, float(len(rows))] for name, rows in every.items() if isinstance(rows, list)]
    return [
        *parts,
        html.table(["list", "rows"], sizes),
        '<p><a href="../validated/docs/index.html">Data docs</a> of the validation gate.</p>',
    ]


def write(artifacts: Path, images: Path, out: Path) -> None:
    """See `albef.report.run`."""
    root = image_root(images)
    with new_folder(out) as folder:
        parts = [
            html.heading("ALBEF: what this run made", 1),
            *tasks.write(artifacts, root, folder),
            *_training(artifacts, folder),
            *_searches(artifacts, folder),
            *_exports(artifacts),
            *_data(artifacts, root, folder),
        ]
        (folder / "index.html").write_text(html.document(parts), encoding="utf-8")
