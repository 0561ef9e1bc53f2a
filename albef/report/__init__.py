"""The report: one HTML page of metrics, curves and pictures of what a run made."""

from __future__ import annotations

from pathlib import Path


def run(artifacts: Path, images: Path, out: Path) -> None:
    """Write ``index.html`` and its pictures.

    Args:
        artifacts: Folder of the pipeline's outputs (``evaluate``, and as far as they are there ``pretrain``,
            ``text_assignment``, ``finetune``, ``export`` and ``validated`` below it).
        images: Folder that image paths start from.
        out: Folder to write; an old one is replaced once the new one is whole.

    Raises:
        ReportError: If a file is missing or has not the expected form.
    """
    from albef.report import page

    page.write(artifacts, images, out)
