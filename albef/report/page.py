"""The page: reads what the stages wrote, draws the pictures and writes ``index.html`` beside them."""

from __future__ import annotations

from html import escape
from pathlib import Path

from albef.data.files import image_root, new_folder
from albef.data.schema import read_list
from albef.report import pictures
from albef.report.source import ReportError, read_examples, read_history, read_json, read_metrics

_SCENES = 12

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { border: 1px solid #d1d9e0; padding: .3rem .8rem; }
th { background: #f6f8fa; text-align: left; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; } p.note { color: #59636e; }
"""


def _table(header: list[str], rows: list[list[str | float]]) -> str:
    def cell(value: str | float) -> str:
        if isinstance(value, str):
            return f"<td>{escape(value)}</td>"
        text = f"{value:g}" if value != 0 and abs(value) < 1e-3 else f"{value:.4f}".rstrip("0").rstrip(".")
        return f'<td class="n">{text}</td>'

    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _picture(name: str, text: str) -> str:
    return f'<p><img src="{escape(name)}" alt="{escape(text)}"></p>'


def _retrieval(metrics: dict[str, float]) -> str:
    directions = {"text to image": "ir", "image to text": "tr"}
    rows: list[list[str | float]] = []
    for direction, short in directions.items():
        for stage, prefix in (("shortlist (ITC)", "itc_"), ("re-ranked (ITM)", "")):
            values = [metrics.get(f"{prefix}{short}_r{k}") for k in (1, 5, 10)]
            rows.append([direction, stage, *(100 * v if v is not None else "-" for v in values)])
    return _table(["direction", "ranking", "R@1 %", "R@5 %", "R@10 %"], rows)


def _training(artifacts: Path, tasks: list[str], out: Path) -> list[str]:
    runs = {"pretrain": artifacts / "pretrain", **{f"finetune {t}": artifacts / "finetune" / t for t in tasks}}
    pictures.curves({name: read_history(folder / "history.csv") for name, folder in runs.items()}, out / "losses.png")
    rows: list[list[str | float]] = [
        [name, metric, value]
        for name, folder in runs.items()
        for metric, value in sorted(read_metrics(folder / "metrics.json").items())
    ]
    return [
        "<h2>Training</h2>",
        _picture("losses.png", "Losses over steps"),
        "<details><summary>Final values</summary>",
        _table(["run", "metric", "value"], rows),
        "</details>",
    ]


def _exports(artifacts: Path, tasks: list[str]) -> list[str]:
    rows: list[list[str | float]] = []
    for task in tasks:
        path = artifacts / "export" / task / "parity.json"
        if not path.is_file():
            continue
        parity = read_json(path)
        try:
            for graph, outputs in parity["graphs"].items():
                rows += [[graph, name, float(o["max_abs"]), float(parity["tolerance"])] for name, o in outputs.items()]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ReportError(f"{path}: not the report of a parity gate: {error!r}") from error
    if not rows:
        return []
    return [
        "<h2>Export</h2>",
        "<p>Largest absolute difference between ONNX Runtime and PyTorch.</p>",
        _table(["graph", "output", "difference", "allowed"], rows),
    ]


def write(artifacts: Path, images: Path, out: Path) -> None:
    """See `albef.report.run`."""
    tasks = sorted(path.parent.name for path in artifacts.glob("evaluate/*/metrics.json"))
    if not tasks:
        raise ReportError(f"{artifacts / 'evaluate'}: no task with a metrics.json; run an evaluate stage first")
    root = image_root(images)
    with new_folder(out) as folder:
        parts = ["<h1>ALBEF: what this run made</h1>"]
        for task in tasks:
            metrics = read_metrics(artifacts / "evaluate" / task / "metrics.json")
            parts.append(f"<h2>Evaluation: {escape(task)}</h2>")
            if task == "retrieval":
                examples = read_examples(artifacts / "evaluate" / task / "examples.json")
                pictures.recalls(metrics, folder / "recall.png")
                pictures.text_to_image(examples.text_to_image, root, folder / "text_to_image.png")
                pictures.image_to_text(examples.image_to_text, root, folder / "image_to_text.png")
                parts += [
                    "<p>Test split: every caption against every image. The shortlist is ranked by the contrastive"
                    " head (ITC), then re-ranked by the match head (ITM).</p>",
                    _retrieval(metrics),
                    _picture("recall.png", "Recall of shortlist and re-ranking"),
                    "<h3>Text to image</h3><p class=note>The right image has a green frame; above each, its score.</p>",
                    _picture("text_to_image.png", "Images found for captions"),
                    "<h3>Image to text</h3><p class=note>The right caption is green.</p>",
                    _picture("image_to_text.png", "Captions found for images"),
                ]
            else:
                parts.append(_table(["metric", "value"], [[name, value] for name, value in sorted(metrics.items())]))
        parts += _training(artifacts, tasks, folder)
        parts += _exports(artifacts, tasks)
        parts += _data(artifacts, root, folder)
        body = "\n".join(parts)
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>ALBEF report</title><style>{_STYLE}</style>\n{body}\n</html>\n"
        )
        (folder / "index.html").write_text(page, encoding="utf-8")


def _data(artifacts: Path, root: Path, out: Path) -> list[str]:
    lists = artifacts / "validated" / "lists"
    sizes: list[list[str | float]] = [[path.stem, float(len(read_json(path)))] for path in sorted(lists.glob("*.json"))]
    shown = []
    for record in read_list(lists / "pretrain.json")[:_SCENES]:
        caption = record["caption"]
        shown.append((record["image"], caption if isinstance(caption, str) else caption[0]))
    pictures.scenes(shown, root, out / "scenes.png")
    return [
        "<h2>Data</h2>",
        _picture("scenes.png", "Training pictures with a caption each"),
        "<p class=note>Training captions are noisy on purpose where <code>caption_noise</code> is above 0.</p>",
        _table(["list", "rows"], sizes),
        '<p><a href="../validated/docs/index.html">Data docs</a> of the validation gate.</p>',
    ]
