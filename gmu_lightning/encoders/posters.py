"""The preparation of posters: from a file to the pixels that an image network was trained on, independent of the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageStat
from torch import Tensor
from torch.nn import functional as F

from gmu_lightning.encoders.base import Unlearned
from gmu_lightning.files import digest
from gmu_lightning.movie import UserError
from gmu_lightning.pictures import decoded_picture

LONGEST_STRIP = 16  # largest ratio of the edges; a longer poster is cut to its middle
BY_TORCH = 2.0  # from this factor on torch shrinks a poster, by vector instructions; for smaller ones its weights are too coarse


@dataclass(frozen=True)
class PosterPreparation(Unlearned):
    """Store a poster as uint8 (height, width, 3): upright, resized and cropped as in timm's evaluation transform.

    Pixels equal timm's. If a poster shrinks to half its size or less, they differ by at most 1 of 255, and one in a million by 2.

    Attributes:
        size: (height, width), in pixels.
        crop: the share of the resized poster's edge that the crop keeps.
        interpolation: `nearest`, `bilinear`, `bicubic`, `lanczos`, `box` or `hamming`.
        mode: `center` keeps the proportions and cuts the longer edge; `squash` first changes the proportions to those of `size`.

    Raises:
        UserError: `mode` is unknown.
    """

    size: tuple[int, int]
    crop: float = 1.0
    interpolation: str = "bicubic"
    mode: str = "center"

    def __post_init__(self) -> None:
        if self.mode not in ("center", "squash"):
            raise UserError(
                f"these weights ask for crop_mode={self.mode}, expected center or squash: choose another encoder/image"
            )

    @property
    def fingerprint(self) -> str:
        """Return the hash of everything that determines a stored poster: `look`, and the turn to upright."""
        return digest(["upright", self.look])

    @property
    def look(self) -> str:
        """Return the hash of size, crop, interpolation and mode. Trailer frames depend on it too."""
        return digest(["poster, shrunk by torch", asdict(self)])

    def store(self, content: Any) -> np.ndarray:
        """Return a poster as uint8 (height, width, 3).

        Args:
            content: a file's path or its bytes.

        Raises:
            BadContent: the file is unreadable, truncated or too large.
            UserError: the content is neither a path nor bytes.
        """
        if not isinstance(content, Path | bytes):
            raise UserError(
                f"this data set's image is {type(content).__name__} and no poster; "
                "choose encoder/image=vector, or a source of posters (data.layout=raw, data.image=posters)"
            )
        width, height = self._target
        with decoded_picture(content, (2 * width, 2 * height)) as decoded:
            return self.cropped(decoded)

    def covered(self, content: Any, cells: int) -> Iterator[np.ndarray]:
        """Yield a poster once for each cell of a grid over the whole poster, row by row, with the cell covered.

        The poster's mean colour fills the cell. Cell edges are at round(n * width / cells) pixels.

        Args:
            content: a file's path or its bytes, which `store` accepts.
            cells: number of rows, and of columns.

        Raises:
            BadContent: as `store`.
        """
        width, height = self._target
        with decoded_picture(content, (2 * width, 2 * height)) as decoded:
            colour = mean_colour(decoded)
            for row in range(cells):
                for column in range(cells):
                    edges = (column, row, column + 1, row + 1)
                    box = tuple(round(n * size / cells) for n, size in zip(edges, decoded.size * 2, strict=True))
                    kept = decoded.crop(box)  # type: ignore[arg-type]
                    decoded.paste(colour, box)  # type: ignore[arg-type]
                    yield self.cropped(decoded)
                    decoded.paste(kept, box[:2])  # type: ignore[arg-type]

    def cropped(self, image: Image.Image) -> np.ndarray:
        """Return an RGB image, resized and cropped: uint8 (height, width, 3)."""
        whole = image if self.mode == "squash" else _middle(image)
        width, height = self._resized(*whole.size)
        if min(whole.width / width, whole.height / height) >= BY_TORCH and self.interpolation in ("bilinear", "bicubic"):
            pixels = _pixels(whole).permute(2, 0, 1)[None]
            resized = F.interpolate(pixels, (height, width), mode=self.interpolation, antialias=True)[0].permute(1, 2, 0).numpy()
        else:
            resized = np.asarray(whole.resize((width, height), Image.Resampling[self.interpolation.upper()]))
        top, left = self._corner(height, width)
        return resized[top : top + self.size[0], left : left + self.size[1], :3].copy()

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> Tensor:
        """Return uint8 (B, 3, height, width) in channels-last memory, with black for absent rows."""
        pixels = np.zeros((len(rows), *self.size, 3), dtype=np.uint8)
        for n, row in enumerate(rows):
            if row is not None:
                pixels[n] = row
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    @property
    def _target(self) -> tuple[int, int]:
        """Return the (width, height) that the resized poster covers."""
        return floor(self.size[1] / self.crop), floor(self.size[0] / self.crop)

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        """Return the first row and column of the crop from a resized poster."""
        return round((height - self.size[0]) / 2), round((width - self.size[1]) / 2)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) that covers the target in the proportions given; for `squash`, the target itself."""
        target = self._target
        if self.mode == "squash":
            return target
        if target[0] == target[1]:  # torchvision's Resize to a shortest edge
            edge = target[0]
            return (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
        ratio = min(width / target[0], height / target[1])  # timm's ResizeKeepRatio
        return round(width / ratio), round(height / ratio)


def mean_colour(image: Image.Image) -> tuple[int, int, int]:
    """Return the mean colour of an RGB image, rounded."""
    red, green, blue = (round(value) for value in ImageStat.Stat(image).mean)
    return red, green, blue


def _pixels(image: Image.Image) -> Tensor:
    """Return an RGB image as uint8 (height, width, 3), or without a copy as (height, width, 4), whose last channel is unused."""
    import pyarrow

    try:
        return torch.from_dlpack(pyarrow.array(image).flatten()).view(image.height, image.width, -1)
    except ValueError:  # Pillow holds a large image in several blocks of memory
        return torch.from_numpy(np.array(image))


def _middle(image: Image.Image) -> Image.Image:
    """Return the middle of an extremely long image, because the whole image, resized, would not fit in memory."""
    width, height = image.size
    keep_x, keep_y = min(width, LONGEST_STRIP * height), min(height, LONGEST_STRIP * width)
    if (keep_x, keep_y) == image.size:
        return image
    left, top = (width - keep_x) // 2, (height - keep_y) // 2
    return image.crop((left, top, left + keep_x, top + keep_y))
