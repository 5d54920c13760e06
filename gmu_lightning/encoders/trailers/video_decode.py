"""A program that decodes trailers in a separate process, so a damaged file cannot hang or crash a run.

It reads one JSON request per line on stdin. It answers on stdout with messages, each of which has a byte for its kind, its length
and its bytes. The module `decoder_pool` starts and kills the program.
"""

from __future__ import annotations

import json
import os
import queue
import struct
import sys
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

# Messages.
HEADER = struct.Struct("<cQ")  # kind, number of bytes
FRAME, SOUND, DONE, BAD = b"F", b"S", b"D", b"B"
SIZE = struct.Struct("<II")  # height, width: before a frame's pixels

# Usual containers of trailers. Formats that refer to other files, and network protocols, are excluded.
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"}
LONGEST_EDGE = 1920  # pixels; larger frames are scaled down before they are sent
MOST_MEMORY = 4 << 30  # bytes, of address space
SLACK, INEXACT = 1.0, 0.02  # seconds, and share of the length, by which a file may end before its stated end
MOST_BROKEN = 0.02  # largest share of a track's packets that may be undecodable
ROUNDING = 1e-6  # seconds


class Unusable(Exception):
    """A file cannot be used. `kind` is the audit's word for the problem, and the text describes it."""

    def __init__(self, kind: str, detail: str):
        super().__init__(detail)
        self.kind = kind


def frames(path: str, rate: float, seconds: float) -> Iterator[np.ndarray]:
    """Yield the pictures shown at 0, 1 / rate, 2 / rate, ... seconds before `seconds`, uint8 (H, W, 3) each.

    Time counts from the first picture. Pictures are rotated by the file's rotation and rescaled to square pixels. Larger edges
    than 1920 pixels are scaled down. Raises Unusable, possibly after some pictures.
    """
    with _opened(path) as file:
        track = Track(file, "video")
        shown, end, taken, origin = None, 0.0, 0, None
        for frame in track.frames():
            time = end
            if frame.time is not None:
                origin = frame.time - end if origin is None else origin
                time = frame.time - origin
            while shown is not None and taken / rate < min(time - ROUNDING, seconds):
                yield _pixels(shown, track.stream)
                taken += 1
            if taken / rate >= seconds:
                break
            shown, end = frame, max(end, time + _length(frame, track.stream))
        track.check(seconds)
        while taken / rate < min(end - ROUNDING, seconds) or taken == 0:
            yield _pixels(shown, track.stream)
            taken += 1


def sound(path: str, rate: int, seconds: float) -> Iterator[np.ndarray]:
    """Yield the mean of the channels, `rate` samples per second up to `seconds`, in pieces of float32 (n,).

    Raises Unusable, possibly after some pieces.
    """
    with _opened(path) as file:
        track = Track(file, "audio")
        left = round(rate * seconds)
        for resampled in _resampled(track.frames(), rate):
            samples = resampled.to_ndarray().reshape(-1, resampled.layout.nb_channels).mean(axis=1, dtype=np.float32)[:left]
            left -= len(samples)
            yield samples
            if not left:
                break
        track.check(seconds)


class Track:
    """The first decodable track of a file.

    Args:
        file: an open container of PyAV.
        kind: `video` or `audio`.

    Raises:
        Unusable: the file has no such track.
    """

    def __init__(self, file: Any, kind: str):
        from av.stream import Disposition

        what = {"video": "picture", "audio": "sound"}[kind]
        cover = Disposition.attached_pic  # the cover of a piece of music
        there = [s for s in file.streams if s.type == kind and not s.disposition & cover]
        known = [s for s in there if s.codec_context is not None]
        if not there:
            raise Unusable(f"missing_{kind}", f"it has no {what}")
        if not known:
            raise Unusable("bad_array", f"its {what} is in a format that cannot be decoded")
        self.file, self.stream, self.what = file, known[0], what
        self.stream.thread_type, self.stream.codec_context.thread_count = "NONE", 1
        self.packets = self.broken = self.decoded = 0
        self.end = self.end_of_all = 0.0  # seconds, on the file's clock

    def frames(self) -> Iterator[Any]:
        """Yield the decoded frames, and count the undecodable packets. Raises Unusable if reading the file fails."""
        try:
            for packet in self.file.demux():
                end = _seconds((packet.pts or 0) + (packet.duration or 0), packet.time_base)
                self.end_of_all = max(self.end_of_all, end)
                if packet.stream_index == self.stream.index:
                    self.end = max(self.end, end)
                    yield from self._frames_of(packet)
        except (OSError, ValueError) as error:
            raise Unusable("bad_array", f"it cannot be read beyond {self.end_of_all:.1f} s ({_reason(error)})") from error

    def _frames_of(self, packet: Any) -> list[Any]:
        self.packets += 1
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except Exception:  # PyAV raises many kinds, such as IndexError
            self.broken += 1
            return []
        self.decoded += len(frames)
        return frames

    def check(self, seconds: float) -> None:
        """Check the track after reading it, or its first `seconds`.

        Raises:
            Unusable: too few packets can be decoded, or the track ended clearly before its stated end.
        """
        if not self.decoded:
            raise Unusable("bad_array", f"nothing of its {self.what} can be decoded")
        if self.broken > MOST_BROKEN * self.packets:
            raise Unusable("bad_array", f"{self.broken} of {self.packets} packets of its {self.what} cannot be decoded")
        end, promised = self._promised()
        if end + SLACK < min(promised, seconds) * (1 - INEXACT):
            raise Unusable("bad_array", f"it ends at {end:.1f} of {promised:.1f} s: the file is truncated")

    def _promised(self) -> tuple[float, float]:
        """Return the end that was reached and the stated end, in seconds.

        Both are the track's in a MOV or MP4. Other formats state only the end of the whole file.
        """
        if "mov" in self.file.format.name:
            return self.end, _seconds((self.stream.start_time or 0) + (self.stream.duration or 0), self.stream.time_base)
        start = 0 if "matroska" in self.file.format.name else self.file.start_time or 0  # its length counts from 0
        return self.end_of_all, (start + (self.file.duration or 0)) / 1e6


def _opened(path: str) -> Any:
    import av

    try:
        return av.open(f"file:{path}", options=OPTIONS)
    except Exception as error:
        raise Unusable("bad_array", f"it cannot be opened ({_reason(error)})") from error


def _resampled(frames: Iterator[Any], rate: int) -> Iterator[Any]:
    """Yield frames of packed float32 at a rate. Channels, rate or format of the input may change between frames."""
    from av import AudioResampler

    resampler: Any = None
    reads = None
    for frame in frames:
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if found != reads:
            if resampler is not None:
                yield from resampler.resample(None)
            resampler, reads = AudioResampler(format="flt", rate=rate), found
        yield from resampler.resample(frame)
    if resampler is not None:
        yield from resampler.resample(None)


def _length(frame: Any, stream: Any) -> float:
    """Return the seconds for which a file's last picture is shown."""
    if frame.duration and frame.time_base:
        return _seconds(frame.duration, frame.time_base)
    return float(1 / stream.average_rate) if stream.average_rate else 0.0


def _seconds(ticks: int, time_base: Any) -> float:
    return float(ticks * time_base) if time_base else 0.0


def _pixels(frame: Any, stream: Any) -> np.ndarray:
    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
    width, height = frame.width * aspect, float(frame.height)
    shrink = min(1.0, LONGEST_EDGE / max(width, height))
    size = {"width": max(1, round(width * shrink)), "height": max(1, round(height * shrink))}
    pixels = frame.reformat(**size, format="rgb24", interpolation="AREA" if shrink < 1 else "BICUBIC").to_ndarray()
    return np.rot90(pixels, round(frame.rotation / 90))


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].split(": 'file:")[0][:200] or type(error).__name__


def main() -> None:
    """Answer requests. The end of stdin ends the process at once, even during an answer.

    Memory is limited to 4 GiB where the system allows.
    """
    import av

    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keeps the output of libraries out of the messages
    av.logging.set_level(None)
    _limit_memory()
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while True:
        request = json.loads(requests.get())
        try:
            _answer(out, request)
        except Unusable as problem:
            _send(out, BAD, json.dumps([problem.kind, str(problem)]).encode())
        except MemoryError:
            _send(out, BAD, json.dumps(["bad_array", f"it needs more than {MOST_MEMORY >> 30} GiB to be decoded"]).encode())
        except BrokenPipeError:
            return
        except Exception as error:
            _send(out, BAD, json.dumps(["bad_array", f"it cannot be decoded ({_reason(error)})"]).encode())


def _answer(out: BinaryIO, request: dict[str, Any]) -> None:
    what = request.pop("what")
    if what == "frames":
        for pixels in frames(**request):
            _send(out, FRAME, SIZE.pack(*pixels.shape[:2]), np.ascontiguousarray(pixels).data)
    else:
        for samples in sound(**request):
            _send(out, SOUND, samples.astype("<f4").data)
    _send(out, DONE)


def _send(out: BinaryIO, what: bytes, *parts: bytes | memoryview) -> None:
    out.write(HEADER.pack(what, sum(memoryview(part).nbytes for part in parts)))
    for part in parts:
        out.write(part)
    out.flush()


def _listen(requests: queue.Queue[str]) -> None:
    """Queue the requests on stdin. The end of stdin ends the process, even during decoding."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    except (ImportError, ValueError, OSError):  # a system without such limits
        pass


if __name__ == "__main__":
    main()
