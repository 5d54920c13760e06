"""What a page shows beside the runs' own files: some movies' plots and posters, and what generated movies were made of."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gmu_lightning.report.gate_evidence import Truth

WIDTH = 110  # pixels of a poster's picture
QUALITY = 72


@dataclass(frozen=True)
class ShownMovie:
    """A movie to look at; what it lacks is None."""

    plot: str | None = None
    poster: str | None = None  # a data: address of a small JPEG


@dataclass(frozen=True)
class Shown:
    """Handed to the page by whoever may read the data."""

    movies: Mapping[str, ShownMovie] = field(default_factory=dict)
    truth: Truth | None = None


def thumbnail(poster: Path) -> str | None:
    """A poster small enough for a page of many, as a `data:` address; None where it cannot be read, which the audit tells."""
    from PIL import Image, ImageOps

    try:
        with Image.open(poster) as image:
            small = ImageOps.exif_transpose(image).convert("RGB")
            small.thumbnail((WIDTH, 2 * WIDTH))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # a damaged PNG is a SyntaxError
        return None
    kept = io.BytesIO()
    small.save(kept, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(kept.getvalue()).decode()}"
