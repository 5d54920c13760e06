"""A poster's file -> the pixels an image network was trained to see. Nothing here knows the network."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from gmu_lightning.encoders.preparing import Unlearned
from gmu_lightning.files import digest
from gmu_lightning.movie import BadContent, UserError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")  # no format whose decoder runs other programs
MOST_PIXELS = 500_000_000
HUGE_PIXELS = 16_000_000  # beyond it a JPEG is decoded at a fraction of its size, and one poster at a time
LONGEST_STRIP = 16  # times its width; the middle of a longer one is looked at


@dataclass(frozen=True)
class PosterPreparation(Unlearned):
    """A poster is stored as uint8 (height, width, 3), resized and cropped as timm's evaluation transform does.

    Attributes:
        size: (height, width).
        crop: the share of the resized poster's edge that the crop keeps.
        interpolation: `nearest`, `bilinear`, `bicubic`, `lanczos`, `box` or `hamming`.
        mode: `center` keeps the proportions and cuts the longer edge; `squash` keeps all and changes the proportions.
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
        """Size, crop and interpolation."""
        return digest(["poster", asdict(self)])

    def store(self, content: Any) -> np.ndarray:
        """A file's path, or its bytes -> uint8 (height, width, 3). Raises BadContent."""
        if not isinstance(content, Path | bytes):
            raise UserError(
                f"this data set's image is {type(content).__name__} and no poster; "
                "choose encoder/image=vector, or a source of posters (data.layout=raw, data.image=posters)"
            )
        height, width = (floor(edge / self.crop) for edge in self.size)
        with _decoded(content, (2 * width, 2 * height)) as decoded:
            return self.cropped(decoded)

    def cropped(self, image: Image.Image) -> np.ndarray:
        """An image in RGB -> uint8 (height, width, 3)."""
        height, width = (floor(edge / self.crop) for edge in self.size)
        whole = image if self.mode == "squash" else _middle(image)
        resized = whole.resize(self._resized(whole.size, (width, height)), Image.Resampling[self.interpolation.upper()])
        top, left = round((resized.height - self.size[0]) / 2), round((resized.width - self.size[1]) / 2)
        return np.asarray(resized)[top : top + self.size[0], left : left + self.size[1]].copy()

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> Tensor:
        """uint8 (B, 3, height, width) in channels-last memory, black where absent."""
        pixels = np.zeros((len(rows), *self.size, 3), dtype=np.uint8)
        for n, row in enumerate(rows):
            if row is not None:
                pixels[n] = row
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def _resized(self, size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
        """(width, height) that covers the target, in the proportions of `size` unless they are to be squashed."""
        if self.mode == "squash":
            return target
        width, height = size
        if target[0] == target[1]:  # torchvision's Resize to a shortest edge
            edge = target[0]
            return (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
        ratio = min(width / target[0], height / target[1])  # timm's ResizeKeepRatio
        return round(width / ratio), round(height / ratio)


@contextmanager
def _decoded(content: Path | bytes, enough: tuple[int, int]) -> Iterator[Image.Image]:
    """The poster in RGB, at its own size or, if that is huge and the format can, at a smaller one of at least `enough`."""
    try:
        image = _opened(content)
    except Exception as error:
        raise _unusable(error) from error
    with image:
        pixels = image.width * image.height
        if pixels > MOST_PIXELS:
            raise BadContent("oversize_image", f"{image.width} x {image.height} pixels, more than {MOST_PIXELS // 10**6} million")
        huge = pixels > HUGE_PIXELS
        with _ONE_HUGE if huge else nullcontext():
            try:
                if huge:
                    image.draft(image.mode, enough)
                image.load()
                rgb = _rgb(image)
            except Exception as error:
                raise _unusable(error) from error
            yield rgb


_ONE_HUGE = threading.Lock()
_OPENING = threading.Lock()


def _opened(content: Path | bytes) -> Image.Image:
    """The file with its header read. Pillow's own limit, 179 million pixels, is global: lifted for this moment only."""
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits: what is transparent shows white, 16 bits keep their upper half."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray((values >> 8 if values.max(initial=0) > 255 else values).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return image if image.mode == "RGB" else image.convert("RGB")


def _middle(image: Image.Image) -> Image.Image:
    """The middle of an extremely long image, which resized whole would not fit in memory."""
    width, height = image.size
    keep_x, keep_y = min(width, LONGEST_STRIP * height), min(height, LONGEST_STRIP * width)
    if (keep_x, keep_y) == image.size:
        return image
    left, top = (width - keep_x) // 2, (height - keep_y) // 2
    return image.crop((left, top, left + keep_x, top + keep_y))


def _unusable(error: Exception) -> BadContent:
    if isinstance(error, BadContent):
        return error
    if isinstance(error, UnidentifiedImageError):
        return BadContent("unreadable_image", f"empty, or no image in one of the formats {', '.join(FORMATS)}")
    truncated = "truncated" in str(error).lower() or isinstance(error, EOFError)
    detail = str(error) or type(error).__name__
    return BadContent("truncated_image" if truncated else "unreadable_image", detail.replace("\n", " ")[:200])
