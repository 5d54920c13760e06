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
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from gmu_lightning.encoders.preparing import Unlearned
from gmu_lightning.files import digest
from gmu_lightning.movie import BadContent, UserError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")  # no format whose decoder runs other programs
MOST_PIXELS = 500_000_000
HUGE_PIXELS = 16_000_000  # beyond it a JPEG is decoded at a fraction of its size, and one poster at a time
LONGEST_STRIP = 16  # times its width; the middle of a longer one is looked at
AT_ONCE = 1 << 20  # pixels converted at once, so that only the poster and its copy in RGB are large
MOST_TEXT = 64 << 20  # unpacked bytes of a PNG's colour profile or text
ORIENTATION, SIDEWAYS = 0x0112, 5  # EXIF's tag; from this value on width and height are exchanged
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class PosterPreparation(Unlearned):
    """Store a poster as uint8 (height, width, 3): upright, resized and cropped as timm's evaluation transform does.

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
        """Hash of everything that determines a stored poster: its look, and that it is upright."""
        return digest(["upright", self.look])

    @property
    def look(self) -> str:
        """Size, crop, interpolation and mode, which a trailer's frames have as well."""
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
    """Decode a poster in RGB, upright.

    It has its own size or, if that is huge and the format can, a smaller one of at least `enough`.
    """
    with _larger_texts():
        try:
            image = _opened(content)
        except Exception as error:
            raise _unusable(error) from error
        with image:
            pixels = image.width * image.height
            if pixels > MOST_PIXELS:
                size = f"{image.width} x {image.height}"
                raise BadContent("oversize_image", f"{size} pixels, more than {MOST_PIXELS // 10**6} million")
            huge = pixels > HUGE_PIXELS
            with _ONE_HUGE if huge else nullcontext():
                try:
                    upright = _upright(image, enough if huge else None)
                except Exception as error:
                    raise _unusable(error) from error
                yield upright


_ONE_HUGE = threading.Lock()
_OPENING = threading.Lock()
_READING: list[tuple[int, int]] = []  # an entry for each poster being read: Pillow's own limits on texts


@contextmanager
def _larger_texts() -> Iterator[None]:
    """Raise Pillow's global limits on a PNG's colour profile and texts while posters are being read."""
    with _OPENING:
        limits = _READING[0] if _READING else (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
        _READING.append(limits)
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = MOST_TEXT
    try:
        yield
    finally:
        with _OPENING:
            _READING.pop()
            if not _READING:
                PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = limits


def _opened(content: Path | bytes) -> Image.Image:
    """The file with its header read. Pillow's own limit, 179 million pixels, is global: lifted for this moment only."""
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _upright(image: Image.Image, enough: tuple[int, int] | None) -> Image.Image:
    """Load an image in RGB, turned as its EXIF data ask for; a huge one at a size of at least `enough`.

    The image itself is closed once it is copied, so that no more than two copies are in memory.
    """
    if enough is not None:
        image.draft(image.mode, enough if _orientation(image) < SIDEWAYS else enough[::-1])
    image.load()
    turn = TURNS.get(_orientation(image))  # 1 for a TIFF, which Pillow has turned while loading
    rgb = _rgb(image)
    if rgb is not image:
        image.close()
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 (upright) where there is none."""
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF data fail in every way there is, and the pixels are sound
        return 1
    return found if isinstance(found, int) else 1


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to three channels of 8 bits: transparent parts show white, 16 bits keep their upper half."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    shift = 8 if image.mode.startswith("I") and image.getextrema()[1] > 255 else 0  # type: ignore[operator]
    rgb = Image.new("RGB", image.size)
    rows = max(1, AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        rgb.paste(_rgb_strip(image.crop((0, top, image.width, min(top + rows, image.height))), shift), (0, top))
    return rgb


def _rgb_strip(strip: Image.Image, shift: int) -> Image.Image:
    """Convert a few rows of an image to RGB; whole numbers lose their lower `shift` bits."""
    if strip.mode.startswith("I"):
        strip = Image.fromarray((np.asarray(strip).astype(np.int64) >> shift).clip(0, 255).astype(np.uint8))
    if strip.has_transparency_data:
        coloured = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return strip.convert("RGB")


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
    if "MAX_TEXT" in str(error):
        return BadContent("unreadable_image", f"a PNG whose colour profile or text has more than {MOST_TEXT >> 20} MB")
    truncated = "truncated" in str(error).lower() or isinstance(error, EOFError)
    detail = str(error) or type(error).__name__
    return BadContent("truncated_image" if truncated else "unreadable_image", detail.replace("\n", " ")[:200])
