"""``make figures``: update the README's figures from the last report."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

REPORT, DOCS = Path("artifacts/report"), Path("docs/pictures")
FIGURES = {
    "scenes": ("scenes", 1, 1),
    "text_to_image": ("retrieval", 5 / 8, 3 / 4),
    "vqa_examples": ("vqa", 1 / 2, 1),
    "grounding_examples": ("grounding", 1, 1),
}
"""Name, fraction of the height to keep, and scale of a figure, by its name in the report."""


def main() -> None:
    """Crop, scale and compress the figures of the report into `DOCS`."""
    DOCS.mkdir(parents=True, exist_ok=True)
    for source, (name, fraction, scale) in FIGURES.items():
        figure = Image.open(REPORT / f"{source}.png").convert("RGB")
        figure = figure.crop((0, 0, figure.width, int(figure.height * fraction)))
        size = (int(figure.width * scale), int(figure.height * scale))
        figure.resize(size, Image.Resampling.LANCZOS).quantize(128).save(DOCS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
