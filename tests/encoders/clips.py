"""Write small trailers for tests. Each second of the picture has its own shade of grey, and the sound is a tone."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

RATE = 24_000
LAYOUTS = {1: "mono", 2: "stereo", 8: "7.1"}


def shade(second: float) -> int:
    """Return the picture's grey value during a second, 0 to 255."""
    return 20 + 25 * (int(second) % 9)


def write(
    path: Path,
    seconds: float = 3.0,
    size: tuple[int, int] = (48, 64),
    fps: int = 10,
    picture: bool = True,
    tone: float | None = 440.0,
    channels: Sequence[float] = (0.5,),
    aspect: Fraction | None = None,
    times: Sequence[float] | None = None,
    noise: int | None = None,
    cover: bool = False,
    sound_seconds: float | None = None,
) -> Path:
    """Write a clip and return its path.

    Args:
        path: its suffix decides the format.
        seconds: length of the clip.
        size: (height, width) of the picture.
        fps: frames per second.
        picture: whether the clip has a picture.
        tone: frequency of the sound in Hz; None writes no sound.
        channels: amplitude of the tone in each channel.
        aspect: width of a pixel divided by its height.
        times: of the frames, in seconds; None takes equal steps.
        noise: seed of a random pattern in the upper left quarter, which makes clips differ.
        cover: whether the picture is marked as the cover of a piece of music.
        sound_seconds: length of the sound; None takes `seconds`.
    """
    with av.open(str(path), "w") as file:
        video = file.add_stream("mjpeg" if cover else "mpeg4", rate=fps) if picture or cover else None
        sound = None if tone is None else file.add_stream("aac", rate=RATE, layout=LAYOUTS[len(channels)])
        if video is not None:
            video.height, video.width, video.pix_fmt, video.bit_rate = *size, "yuvj420p" if cover else "yuv420p", 2_000_000
            if cover:
                video.disposition = Disposition.attached_pic
            video.codec_context.time_base = Fraction(1, fps)
            if aspect:
                video.codec_context.sample_aspect_ratio = aspect
            for time in times or np.arange(round(seconds * fps)) / fps:
                frame = av.VideoFrame.from_ndarray(_picture(size, time, noise), format="rgb24")
                frame.pts, frame.time_base = round(time * fps), Fraction(1, fps)
                file.mux(video.encode(frame))
            file.mux(video.encode())
        if sound is not None:
            wave = np.sin(2 * np.pi * tone * np.arange(round((sound_seconds or seconds) * RATE)) / RATE)
            samples = np.array(channels, dtype=np.float32)[:, None] * wave.astype(np.float32)
            for start in range(0, samples.shape[1], 1024):
                piece = samples[:, start : start + 1024].T.reshape(1, -1)
                audio = av.AudioFrame.from_ndarray(piece, format="flt", layout=sound.layout.name)
                audio.sample_rate, audio.pts, audio.time_base = RATE, start, Fraction(1, RATE)
                file.mux(sound.encode(audio))
            file.mux(sound.encode())
    return path


def rotated(path: Path, quarter_turns: int) -> Path:
    """Mark an mp4 as rotated clockwise by the matrix in its track's header, as telephones do."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter_turns % 4]
    content[at : at + 36] = struct.pack(">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def _picture(size: tuple[int, int], time: float, noise: int | None) -> np.ndarray:
    pixels = np.full((*size, 3), shade(time), dtype=np.uint8)
    if noise is not None:
        part = np.random.default_rng([noise, int(time)]).integers(0, 256, (size[0] // 16, size[1] // 16, 3), dtype=np.uint8)
        pixels[: size[0] // 16 * 8, : size[1] // 16 * 8] = part.repeat(8, axis=0).repeat(8, axis=1)
    return pixels
