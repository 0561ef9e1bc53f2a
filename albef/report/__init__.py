"""The report: one HTML page of metrics, curves and pictures of what a run made."""

from __future__ import annotations

from pathlib import Path


def run(
    artifacts: Path, images: Path, out: Path, tracking_uri: str | None = "none", scratch: Path = Path("scratch")
) -> None:
    """Write ``index.html`` and its pictures, then record them in MLflow.

    Args:
        artifacts: Folder of the pipeline's outputs (``evaluate``, and as far as they are there ``pretrain``,
            ``text_assignment``, ``finetune``, ``export`` and ``validated`` below it).
        images: Folder that image paths start from.
        out: Folder to write; an old one is replaced once the new one is whole.
        tracking_uri: MLflow store; "none" records nothing, None leaves it to the environment.
        scratch: Folder where what MLflow does not take waits.

    Raises:
        ReportError: If a file is missing or has not the expected form.
    """
    from albef.report import page, record

    page.write(artifacts, images, out)
    record.run(artifacts, images, out, tracking_uri, scratch)
