"""The preparation of posters: from a file to the pixels that an image network was trained on, independent of the network."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageStat, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from gmu_lightning.encoders.base import Unlearned
from gmu_lightning.files import digest
from gmu_lightning.movie import BadContent, UserError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")  # decoders of other formats may run programs
MOST_PIXELS = 500_000_000
HUGE_PIXELS = 16_000_000  # a larger JPEG is decoded at a fraction of its size, and one huge poster at a time
LONGEST_STRIP = 16  # largest ratio of the edges; a longer poster is cut to its middle
AT_ONCE = 1 << 20  # pixels converted at once, so that only the poster and its copy in RGB take much memory
MOST_TEXT = 64 << 20  # unpacked bytes of a PNG's colour profile or text
ORIENTATION, SIDEWAYS = 0x0112, 5  # EXIF's tag, and the first value that exchanges width and height
UPRIGHT = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
TURNS = {value: Image.Transpose[turn] for value, turn in enumerate(UPRIGHT, start=2)}  # of EXIF's values from 2 on


@dataclass(frozen=True)
class PosterPreparation(Unlearned):
    """Store a poster as uint8 (height, width, 3): upright, resized and cropped as in timm's evaluation transform.

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
        return digest(["poster", asdict(self)])

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
        with _decoded(content, (2 * width, 2 * height)) as decoded:
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
        with _decoded(content, (2 * width, 2 * height)) as decoded:
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
        resized = whole.resize(self._resized(*whole.size), Image.Resampling[self.interpolation.upper()])
        top, left = round((resized.height - self.size[0]) / 2), round((resized.width - self.size[1]) / 2)
        return np.asarray(resized)[top : top + self.size[0], left : left + self.size[1]].copy()

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


@contextmanager
def _decoded(content: Path | bytes, enough: tuple[int, int]) -> Iterator[Image.Image]:
    """Yield a poster in RGB, upright. A huge JPEG is decoded at a smaller size, of at least `enough` (width, height)."""
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
    """Open a file and read its header."""
    image = Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        size = f"{image.width} x {image.height}"
        image.close()
        raise BadContent("oversize_image", f"{size} pixels, more than {MOST_PIXELS // 10**6} million")
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


def _middle(image: Image.Image) -> Image.Image:
    """Return the middle of an extremely long image, because the whole image, resized, would not fit in memory."""
    width, height = image.size
    keep_x, keep_y = min(width, LONGEST_STRIP * height), min(height, LONGEST_STRIP * width)
    if (keep_x, keep_y) == image.size:
        return image
    left, top = (width - keep_x) // 2, (height - keep_y) // 2
    return image.crop((left, top, left + keep_x, top + keep_y))
