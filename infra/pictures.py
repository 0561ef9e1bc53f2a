"""The README's pictures, from the report of the last run: ``make pictures``."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

REPORT, DOCS = Path("artifacts/report"), Path("docs/pictures")
SHOWN = {
    "scenes": ("scenes", 1, 1),
    "text_to_image": ("retrieval", 5 / 8, 3 / 4),
    "vqa_examples": ("vqa", 1 / 2, 1),
    "grounding_examples": ("grounding", 1, 1),
}
"""What of a report's picture goes where: its name there, the share of its height, and its scale."""


def main() -> None:
    """Shrink the report's pictures into ``docs/pictures``: enough to see, and a page that loads."""
    DOCS.mkdir(parents=True, exist_ok=True)
    for source, (name, share, scale) in SHOWN.items():
        picture = Image.open(REPORT / f"{source}.png").convert("RGB")
        picture = picture.crop((0, 0, picture.width, int(picture.height * share)))
        size = (int(picture.width * scale), int(picture.height * scale))
        picture.resize(size, Image.Resampling.LANCZOS).quantize(128).save(DOCS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
