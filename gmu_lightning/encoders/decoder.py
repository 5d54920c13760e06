"""A program that decodes trailers in a process of its own: a file which hangs or crashes a decoder costs that file alone.

It reads a JSON request a line on stdin and answers on stdout with messages: a byte that says what it is, its length, its bytes.
`decoding` starts it, and kills it.
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
HEADER = struct.Struct("<cQ")  # what, number of bytes
FRAME, SOUND, DONE, BAD = b"F", b"S", b"D", b"B"
SIZE = struct.Struct("<II")  # height, width: before a frame's pixels

# The containers that trailers come in; none that names other files, and nothing from a network.
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"}
LONGEST_EDGE = 1920  # pixels; larger frames are scaled down before they are handed on
MOST_MEMORY = 4 << 30  # bytes, of address space
SLACK = 1.0  # seconds by which a track may end before it promised to


class Unusable(Exception):
    """`kind` is the audit's word, the text says what is wrong."""

    def __init__(self, kind: str, detail: str):
        super().__init__(detail)
        self.kind = kind


def frames(path: str, rate: float, seconds: float) -> Iterator[np.ndarray]:
    """uint8 (H, W, 3): the picture that is shown at 0, 1 / rate, 2 / rate, ... seconds, while that is before `seconds`.

    Time counts from the first picture. Rotated as the file says, and in its proportions where its pixels are not square.
    """
    from av.stream import Disposition

    with _opened(path) as file:
        pictures = [s for s in file.streams.video if not s.disposition & Disposition.attached_pic]  # a cover is no trailer
        if not pictures:
            raise Unusable("missing_video", "it has no picture")
        stream = pictures[0]
        stream.thread_type = "NONE"
        shown, end, taken, first = None, 0.0, 0, None
        for frame in _decoded(file, stream):
            time = end if frame.time is None else frame.time
            first = time if first is None else first
            time -= first
            while shown is not None and taken / rate < min(time, seconds):
                yield _pixels(shown, stream)
                taken += 1
            if taken / rate >= seconds:
                return
            shown, end = frame, max(end, time + _length(frame, stream))
        if shown is None:
            raise Unusable("bad_array", "its picture has no frame that can be decoded")
        _refuse_truncated(end, first or 0.0, seconds, file, stream)
        while taken / rate < min(end, seconds) or taken == 0:
            yield _pixels(shown, stream)
            taken += 1


def sound(path: str, rate: int, seconds: float) -> Iterator[np.ndarray]:
    """float32 (n,): so many samples a second, the mean of the channels, the first `seconds` of it."""
    from av import AudioResampler

    with _opened(path) as file:
        if not file.streams.audio:
            raise Unusable("missing_audio", "it has no sound")
        stream = file.streams.audio[0]
        resampler = AudioResampler(format="fltp", rate=rate)
        left, end = round(rate * seconds), 0.0
        for frame in _decoded(file, stream):
            end += frame.samples / frame.sample_rate
            for resampled in resampler.resample(frame):
                piece = resampled.to_ndarray().mean(axis=0, dtype=np.float32)[:left]
                left -= len(piece)
                yield piece
            if not left:
                return
        if not end:
            raise Unusable("bad_array", "its sound has no sample that can be decoded")
        _refuse_truncated(end, 0.0, seconds, file, stream)
        for resampled in resampler.resample(None):
            yield resampled.to_ndarray().mean(axis=0, dtype=np.float32)[:left]


def _opened(path: str) -> Any:
    import av

    try:
        return av.open(f"file:{path}", options=OPTIONS)
    except Exception as error:
        raise Unusable("bad_array", f"it cannot be opened ({_reason(error)})") from error


def _decoded(file: Any, stream: Any) -> Iterator[Any]:
    """The stream's frames. A damage says how far it was read: PyAV raises exceptions of many kinds, IndexError among them."""
    at = 0.0
    try:
        for packet in file.demux(stream):
            for frame in packet.decode():
                at = at if frame.time is None else frame.time
                yield frame
    except Exception as error:
        raise Unusable("bad_array", f"it cannot be decoded beyond {at:.1f} s ({_reason(error)})") from error


def _length(frame: Any, stream: Any) -> float:
    """Seconds that a picture is shown, where nothing follows it."""
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return float(1 / stream.average_rate) if stream.average_rate else 0.0


def _refuse_truncated(end: float, first: float, seconds: float, file: Any, stream: Any) -> None:
    """What a track says of its length, or else the container, whose time does not begin with the track's `first` picture."""
    if stream.duration and stream.time_base:
        promised = float(stream.duration * stream.time_base)
    else:
        promised = (file.duration or 0) / 1e6 - first
    if end + SLACK < min(promised, seconds) * 0.98:
        raise Unusable("bad_array", f"it ends at {end:.1f} of {promised:.1f} s: the file is truncated")


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
    """Answer requests until stdin ends."""
    import av

    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints does not come between the messages
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
    """Requests as they come; the end of stdin ends the process, even in the middle of a decoder's work."""
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
