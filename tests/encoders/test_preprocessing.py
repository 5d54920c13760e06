from __future__ import annotations

import io
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from gmu_lightning import pictures as module
from gmu_lightning.encoders.posters import PosterPreparation, _middle
from gmu_lightning.movie import BadContent, UserError
from gmu_lightning.pictures import decoded_picture

PREPARATION = PosterPreparation((32, 32))


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (max(2, height // 12), max(2, width // 12), 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(120, 180), (181, 120), (97, 97), (20, 31), (300, 1999)])
@pytest.mark.parametrize(
    ("shape", "crop", "interpolation", "mode"),
    [
        ((224, 224), 0.875, "bicubic", "center"),
        ((224, 224), 0.875, "bilinear", "center"),
        ((96, 96), 0.95, "bicubic", "center"),
        ((64, 64), 1.0, "lanczos", "center"),
        ((64, 64), 0.9, "bicubic", "squash"),
        ((96, 64), 0.9, "bicubic", "center"),
    ],
)
def test_pixels_agree_with_timms_evaluation_transform(size, shape, crop, interpolation, mode):
    from timm.data import create_transform

    poster = noise(*size)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    options = {"crop_pct": crop, "interpolation": interpolation, "crop_mode": mode, "mean": mean, "std": std}
    expected = create_transform((3, *shape), is_training=False, **options)(poster)
    stored = PosterPreparation(shape, crop, interpolation, mode).store(saved(poster))
    assert stored.dtype == np.uint8 and stored.shape == (*shape, 3)
    pixels = torch.from_numpy(stored).permute(2, 0, 1) / 255
    wanted = expected * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    assert ((pixels - wanted).abs() * 255).max() < (1.01 if shrunk(size, shape) else 0.01)


def shrunk(size: tuple[int, int], shape: tuple[int, int]) -> bool:
    """Return whether torch may shrink a poster."""
    return size[0] >= 2 * shape[1] and size[1] >= 2 * shape[0]


def jpeg(width: int, height: int, kind: str) -> bytes:
    """Return a poster of soft colours, or one of random pixels."""
    if kind == "smooth":
        return saved(noise(width, height), "JPEG")
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return saved(Image.fromarray(pixels), "JPEG", quality=95)


@pytest.mark.parametrize("kind", ["smooth", "noisy"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
@pytest.mark.parametrize(
    ("size", "whole", "corner"),
    [((171, 256), (256, 383), (80, 16)), ((900, 1301), (256, 370), (73, 16)), ((2600, 1700), (391, 256), (16, 84))],
)
def test_pixels_are_within_one_of_pillows(size, whole, corner, interpolation, kind):
    poster = jpeg(*size, kind)
    resized = Image.open(io.BytesIO(poster)).resize(whole, Image.Resampling[interpolation.upper()])
    top, left = corner
    expected = np.asarray(resized).astype(int)[top : top + 224, left : left + 224]
    stored = PosterPreparation((224, 224), 0.875, interpolation).store(poster)
    by_torch = min(size) > 500 and interpolation in ("bicubic", "bilinear")
    assert np.abs(stored - expected).max() <= (1 if by_torch else 0)
    assert np.abs(stored - expected).mean() < 0.02


def test_colour_modes_give_the_same_poster():
    grey = noise(60, 90).convert("L")
    expected = PREPARATION.store(saved(grey.convert("RGB"))).astype(int)
    for stored in (
        PREPARATION.store(saved(grey)),
        PREPARATION.store(saved(grey.convert("P"))),
        PREPARATION.store(saved(grey.convert("RGB").convert("CMYK"), "TIFF")),
        PREPARATION.store(saved(grey.convert("LA"))),
        PREPARATION.store(saved(grey.convert("RGB").convert("CMYK"), "JPEG", quality=100)),
    ):
        assert stored.shape == (32, 32, 3)
        assert np.abs(stored - expected).max() <= 4


def test_sixteen_bits_keep_their_upper_half():
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    expected = PREPARATION.store(saved(Image.fromarray((values >> 8).astype(np.uint8))))
    assert np.array_equal(PREPARATION.store(saved(Image.fromarray(values))), expected)
    assert np.array_equal(PREPARATION.store(saved(Image.fromarray(values), "TIFF")), expected)


@pytest.mark.parametrize("kind", ["RGBA", "P"])
def test_transparent_parts_become_white(kind):
    image = Image.new("RGBA", (40, 40), (200, 0, 0, 0))
    assert (PREPARATION.store(saved(image.convert(kind))) == 255).all()


# EXIF's orientation: the Image.Transpose that gives an upright image this orientation.
UNDO = dict(enumerate((0, 3, 1, 5, 2, 6, 4), start=2))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_poster_is_turned_upright_by_its_exif_data(kind, orientation):
    upright = noise(60, 90)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = upright.transpose(Image.Transpose(UNDO[orientation])) if orientation > 1 else upright
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    stored = PREPARATION.store(saved(turned, kind, exif=exif, **lossless)).astype(int)
    assert np.abs(stored - PREPARATION.store(saved(upright))).max() <= (4 if kind == "JPEG" else 0)


def test_a_huge_sideways_poster_is_decoded_large_enough(monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    poster = saved(noise(1200, 800), "JPEG", exif=exif)
    monkeypatch.setattr(module, "HUGE_PIXELS", 100)
    with decoded_picture(poster, (150, 400)) as decoded:
        assert decoded.size == (400, 600)


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0nothing", b"\xff" * 40])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_are_ignored(exif):
    assert np.array_equal(PREPARATION.store(saved(noise(40, 60), exif=exif)), PREPARATION.store(saved(noise(40, 60))))


def test_a_png_with_large_profile_and_text_is_read(monkeypatch):
    text = PngImagePlugin.PngInfo()
    text.add_text("history", "x" * 2_000_000, zip=True)
    text.add_itxt("note", "y" * 2_000_000, zip=True)
    poster = noise(40, 60)
    large = saved(poster, icc_profile=bytes(3_000_000), pnginfo=text)
    assert np.array_equal(PREPARATION.store(large), PREPARATION.store(saved(poster)))
    monkeypatch.setattr(module, "MOST_TEXT", 2_500_000)
    with pytest.raises(BadContent, match="a PNG whose colour profile or text has more than 2 MB"):
        PREPARATION.store(large)


def test_pillows_limits_are_restored(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12_345)
    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(PREPARATION.store, [saved(noise(400, 600), icc_profile=bytes(1_200_000))] * 32))
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
    assert Image.MAX_IMAGE_PIXELS == 12_345


@pytest.mark.parametrize("mode", ["I;16", "P", "RGB", "LA"])
def test_a_poster_converts_equally_in_strips(monkeypatch, mode):
    values = np.asarray(noise(50, 70))
    image = Image.fromarray(values[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else noise(50, 70).convert(mode)
    options = {"transparency": 3} if mode == "P" else {}
    whole = PREPARATION.store(saved(image, **options))
    monkeypatch.setattr(module, "AT_ONCE", 150)
    assert np.array_equal(PREPARATION.store(saved(image, **options)), whole)


PEAK = """
import resource, sys
from pathlib import Path
from gmu_lightning.encoders.posters import PosterPreparation
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
PosterPreparation((64, 64)).store(Path(sys.argv[1]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("mode", ["I;16", "P"])
def test_a_large_png_takes_at_most_eight_bytes_a_pixel(tmp_path, mode):
    width, height = 5000, 3200
    values = (np.arange(width * height, dtype=np.uint32) % 65_521).astype(np.uint16).reshape(height, width)
    image = Image.fromarray(values if mode == "I;16" else (values >> 8).astype(np.uint8))
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    image.save(tmp_path / "a.png", compress_level=1, **({"transparency": bytes(100)} if mode == "P" else {}))
    command = [sys.executable, "-c", PEAK, str(tmp_path / "a.png")]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert peak <= 8 * width * height + 20_000_000  # a strip, and the decoders' own memory


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_usual_formats_are_read_from_path_and_bytes(tmp_path, kind):
    path = tmp_path / "poster"
    path.write_bytes(saved(noise(40, 60), kind))
    assert np.array_equal(PREPARATION.store(path), PREPARATION.store(path.read_bytes()))


def test_a_huge_jpeg_is_read_without_warning():
    huge = saved(noise(500, 500).resize((12_000, 12_000), Image.Resampling.NEAREST), "JPEG", quality=30)
    small = saved(noise(500, 500))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored = PREPARATION.store(huge).astype(int)
    assert np.abs(stored - PREPARATION.store(small)).mean() < 4


def test_too_many_pixels_are_refused_before_decoding():
    header = saved(Image.new("L", (8, 8)))
    chunk = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + header[24:29]
    bomb = header[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + header[33:]
    with pytest.raises(BadContent, match="30000 x 30000") as caught:
        PREPARATION.store(bomb)
    assert caught.value.kind == "oversize_image"


@pytest.mark.parametrize("content", [b"", b"not an image at all", saved(noise(9, 9), "PPM")])
def test_a_file_that_is_no_image_is_unreadable(content):
    with pytest.raises(BadContent) as caught:
        PREPARATION.store(content)
    assert caught.value.kind == "unreadable_image"
    assert "empty, or no image" in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_half_a_file_is_truncated(kind, share):
    whole = saved(noise(300, 300), kind)
    with pytest.raises(BadContent) as caught:
        PREPARATION.store(whole[: int(len(whole) * share)])
    assert caught.value.kind == "truncated_image"


def test_a_missing_file_is_unreadable(tmp_path):
    with pytest.raises(BadContent) as caught:
        PREPARATION.store(tmp_path / "gone.jpeg")
    assert caught.value.kind == "unreadable_image"


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_posters_may_be_one_pixel_wide(size):
    assert PREPARATION.store(saved(Image.new("RGB", size, "red")))[:, :, 0].min() == 255


def test_absent_posters_are_black_in_a_batch():
    row = PREPARATION.store(saved(noise(40, 60)))
    batch = PREPARATION.batch([row, None], training=False)
    assert batch.dtype == torch.uint8 and batch.shape == (2, 3, 32, 32)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(batch[0].permute(1, 2, 0).numpy(), row)
    assert not batch[1].any()


def test_the_fingerprint_includes_every_setting():
    variants = [
        PosterPreparation((32, 32)),
        PosterPreparation((32, 48)),
        PosterPreparation((32, 32), 0.9),
        PosterPreparation((32, 32), 1.0, "bilinear"),
        PosterPreparation((32, 32), mode="squash"),
    ]
    assert len({variant.fingerprint for variant in variants}) == len(variants)


def test_only_a_huge_jpeg_is_decoded_smaller(monkeypatch):
    poster = saved(noise(800, 1200), "JPEG")
    with decoded_picture(poster, (64, 64)) as decoded:
        assert decoded.size == (800, 1200)
    monkeypatch.setattr(module, "HUGE_PIXELS", 800 * 1200 - 1)
    with decoded_picture(poster, (64, 64)) as decoded:
        assert decoded.size == (100, 150)


def test_an_extremely_long_poster_is_cut_to_its_middle():
    assert _middle(Image.new("RGB", (2, 20_000))).size == (2, 32)
    assert _middle(Image.new("RGB", (200, 300))).size == (200, 300)


def test_threads_read_huge_posters_alike(monkeypatch):
    monkeypatch.setattr(module, "HUGE_PIXELS", 100)
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(PREPARATION.store, [saved(noise(40, 60), "JPEG")] * 8))
    assert all(np.array_equal(row, rows[0]) for row in rows)


def test_vectors_are_refused():
    with pytest.raises(UserError, match="choose encoder/image=vector"):
        PREPARATION.store(np.zeros(4096))


def test_an_unknown_crop_mode_is_an_error():
    with pytest.raises(UserError, match="crop_mode=border"):
        PosterPreparation((32, 32), mode="border")
