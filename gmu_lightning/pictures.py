"""Decode pictures of strangers: in six formats, of a limited size, upright, and in RGB."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from gmu_lightning.movie import BadContent

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")  # decoders of other formats may run programs
MOST_PIXELS = 500_000_000
MOST_SCANS = 200  # of a progressive JPEG; usual ones have ten, and each is a pass over all pixels
HUGE_PIXELS = 16_000_000  # a larger JPEG is decoded at a fraction of its size, and one huge poster at a time
AT_ONCE = 1 << 20  # pixels converted at once, so that only the poster and its copy in RGB take much memory
MOST_TEXT = 64 << 20  # unpacked bytes of a PNG's colour profile or text
SCAN = b"\xff\xda"  # the marker before each scan of a JPEG
ORIENTATION, SIDEWAYS = 0x0112, 5  # EXIF's tag, and the first value that exchanges width and height
UPRIGHT = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
TURNS = {value: Image.Transpose[turn] for value, turn in enumerate(UPRIGHT, start=2)}  # of EXIF's values from 2 on


@contextmanager
def decoded_picture(content: Path | bytes, enough: tuple[int, int]) -> Iterator[Image.Image]:
    """Yield a picture in RGB, upright. A huge JPEG is decoded at a smaller size, of at least `enough` (width, height).

    Its size is checked before its pixels are decoded.

    Raises:
        BadContent: the file is no picture of one of the `FORMATS`, is damaged, or is too large.
    """
    with _own_limits(), _tried(_opened, content) as image, _ONE_HUGE if _is_huge(image) else nullcontext():
        yield _tried(_upright, image, enough)


_ONE_HUGE = threading.Lock()
_LIMITING = threading.Lock()
_READING: list[tuple] = []  # Pillow's own limits, once for each poster being read


@contextmanager
def _own_limits() -> Iterator[None]:
    """Lift Pillow's global limit on pixels, and raise those on a PNG's colour profile and texts, while posters are read."""
    with _LIMITING:
        _READING.append(_READING[0] if _READING else _limited_to((None, MOST_TEXT, MOST_TEXT)))
    try:
        yield
    finally:
        with _LIMITING:
            limits = _READING.pop()
            if not _READING:
                _limited_to(limits)


def _limited_to(limits: tuple) -> tuple:
    """Set Pillow's global limits, and return the previous ones."""
    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = limits
    return before


def _tried(read: Callable[..., Image.Image], *arguments: Any) -> Image.Image:
    """Return `read(*arguments)`. Raises BadContent if it fails."""
    try:
        return read(*arguments)
    except BadContent:
        raise
    except UnidentifiedImageError as error:
        raise BadContent("unreadable_image", f"empty, or no image in one of the formats {', '.join(FORMATS)}") from error
    except Exception as error:
        detail = str(error) or type(error).__name__
        if "MAX_TEXT" in detail:
            detail = f"a PNG whose colour profile or text has more than {MOST_TEXT >> 20} MB"
        truncated = "truncated" in detail.lower() or isinstance(error, EOFError)
        kind = "truncated_image" if truncated else "unreadable_image"
        raise BadContent(kind, detail.replace("\n", " ")[:200]) from error


def _opened(content: Path | bytes) -> Image.Image:
    """Open a file and check its header."""
    image = Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        size = f"{image.width} x {image.height}"
        image.close()
        raise BadContent("oversize_image", f"{size} pixels, more than {MOST_PIXELS // 10**6} million")
    if image.info.get("progressive"):
        data = content if isinstance(content, bytes) else content.read_bytes()
        if data.count(SCAN) > MOST_SCANS:
            image.close()
            raise BadContent("unreadable_image", f"a JPEG of {data.count(SCAN)} scans, more than {MOST_SCANS}")
    return image


def _is_huge(image: Image.Image) -> bool:
    return image.width * image.height > HUGE_PIXELS


def _upright(image: Image.Image, enough: tuple[int, int]) -> Image.Image:
    """Return an image in RGB, turned upright by its EXIF data. A huge JPEG is decoded at a smaller size, of at least `enough`.

    The image itself is closed once it is copied, so at most two copies are in memory.
    """
    if _is_huge(image):
        image.draft(image.mode, enough if _orientation(image) < SIDEWAYS else enough[::-1])
    image.load()
    turn = TURNS.get(_orientation(image))  # 1 for a TIFF, which Pillow has turned while loading
    rgb = _rgb(image)
    if rgb is not image:
        image.close()
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, or 1 (upright) if it is missing or damaged."""
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF data may raise anything, while the pixels are intact
        return 1
    return found if isinstance(found, int) else 1


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to three channels of 8 bits. Transparent parts become white, and 16-bit values keep their upper half."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    shift = 8 if image.mode.startswith("I") and image.getextrema()[1] > 255 else 0  # type: ignore[operator]
    rgb = Image.new("RGB", image.size)
    rows = max(1, AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        rgb.paste(_rgb_strip(image.crop((0, top, image.width, min(top + rows, image.height))), shift), (0, top))
    return rgb


def _rgb_strip(strip: Image.Image, shift: int) -> Image.Image:
    """Convert a few rows of an image to RGB. Integer pixels lose their lower `shift` bits."""
    if strip.mode.startswith("I"):
        strip = Image.fromarray((np.asarray(strip).astype(np.int64) >> shift).clip(0, 255).astype(np.uint8))
    if strip.has_transparency_data:
        coloured = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return strip.convert("RGB")
