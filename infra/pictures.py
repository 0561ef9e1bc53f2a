"""The README's pictures, from the report of the last run: ``make pictures``."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

REPORT, DOCS = Path("artifacts/report"), Path("docs/pictures")
ROWS = 5 / 8  # of the report's queries: enough to see, and a page that loads


def main() -> None:
    """Shrink the pictures of scenes and of retrieved results into ``docs/pictures``."""
    DOCS.mkdir(parents=True, exist_ok=True)
    found = Image.open(REPORT / "text_to_image.png").convert("RGB")
    width, height = found.width, int(found.height * ROWS)
    found = found.crop((0, 0, width, height)).resize((width * 3 // 4, height * 3 // 4), Image.Resampling.LANCZOS)
    found.quantize(128).save(DOCS / "retrieval.png", optimize=True)
    Image.open(REPORT / "scenes.png").convert("RGB").quantize(128).save(DOCS / "scenes.png", optimize=True)


if __name__ == "__main__":
    main()
