"""Read frames and sound of trailers through a pool of decoder processes, which can be killed.

The processes run the program `video_decode`. An idle process serves the next request.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from gmu_lightning.encoders.trailers.video_decode import BAD, DONE, HEADER, SIZE
from gmu_lightning.movie import BadContent

PROGRAM = Path(__file__).with_name("video_decode.py")
VERSION = 1  # raised whenever decoding yields other frames or sound for the same file
PATIENCE = 30.0  # seconds without an answer after which a decoder counts as hung
LONGEST = 1800.0  # seconds of decoding that a file may take in all


def frames(path: Path, rate: float, seconds: float) -> Iterator[np.ndarray]:
    """Yield the pictures shown at 0, 1 / rate, 2 / rate, ... seconds, uint8 (H, W, 3) each.

    Only a few pictures are in memory at once, for a trailer of any length.

    Args:
        path: the trailer's file.
        rate: frames per second.
        seconds: frames at or after this time are not read.

    Raises:
        BadContent: the trailer has no picture, or cannot be decoded.
        DecoderLost: the decoder hung or died.
    """
    for payload in _answers(path, "frames", rate, seconds):
        height, width = SIZE.unpack_from(payload)
        yield np.frombuffer(payload, np.uint8, offset=SIZE.size).reshape(height, width, 3)


def sound(path: Path, rate: int, seconds: float) -> Iterator[np.ndarray]:
    """Yield the sound in pieces, float32 (n,) each: the mean of the channels.

    Args:
        path: the trailer's file.
        rate: samples per second.
        seconds: sound after this time is not read.

    Raises:
        BadContent: the trailer has no sound, or cannot be decoded.
        DecoderLost: the decoder hung or died.
    """
    for payload in _answers(path, "sound", rate, seconds):
        yield np.frombuffer(payload, "<f4")


def with_retry(decode: Callable[[], np.ndarray]) -> np.ndarray:
    """Return `decode()`, with a second try if the decoder hung or died, for the file itself may be fine.

    Raises:
        BadContent: the trailer cannot be decoded, or two decoders hung or died; the latter is not `lasting`.
        Released: the decoders were ended meanwhile.
    """
    with suppress(DecoderLost):
        return decode()
    try:
        return decode()
    except DecoderLost as lost:
        raise BadContent("bad_array", f"{lost}, twice", lasting=False) from lost


def release() -> None:
    """End all decoders of this process. Threads that read from one get the exception `Released`."""
    with _LOCK:
        own = [child for child in _children if child.owner == os.getpid()]
        waiting = set(_waiting)
        _waiting.clear()
    for child in own:
        child.released = True
        child.process.kill()
        if child in waiting:  # every other child is ended by its reader
            child.end()


class DecoderLost(Exception):
    """A decoder hung or died. The text names the reason."""


class Released(Exception):
    """A decoder was ended by `release` while it was working."""


class Child:
    """One decoder process. It has its own session, so an interrupt from the keyboard reaches only the parent."""

    def __init__(self) -> None:
        self.owner, self.released = os.getpid(), False
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM)],  # -P keeps the program's folder off the import path
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
        with _LOCK:
            _children.add(self)

    def send(self, request: dict[str, object]) -> None:
        """Write a request to the decoder. Raises DecoderLost, or Released."""
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
        except OSError as error:
            raise self._death() from error

    def receive(self) -> tuple[bytes, bytearray]:
        """Return the kind and the bytes of the decoder's next message. Raises DecoderLost, or Released."""
        kind, size = HEADER.unpack(self._read(HEADER.size))
        return kind, self._read(size)

    def end(self) -> None:
        """Kill the process and close its pipes."""
        self.process.kill()
        self.process.communicate()
        self.selector.close()
        with _LOCK:
            _children.discard(self)

    def _read(self, size: int) -> bytearray:
        taken = bytearray(size)
        view, at = memoryview(taken), 0
        while at < size:
            if not self.selector.select(PATIENCE):
                raise DecoderLost(f"the decoder hung for {PATIENCE:.0f} s and was stopped")
            got = self.process.stdout.readinto(view[at:])  # type: ignore[union-attr]
            if not got:
                raise self._death()
            at += got
        return taken

    def _death(self) -> DecoderLost | Released:
        code = self.process.wait()
        if self.released:
            return Released()
        return DecoderLost(f"the decoder died ({f'signal {-code}' if code < 0 else f'exit {code}'})")


_LOCK = threading.Lock()
_children: set[Child] = set()
_waiting: list[Child] = []
atexit.register(release)


def _answers(path: Path, what: str, rate: float, seconds: float) -> Iterator[bytearray]:
    """Yield the bytes of each message of frames or sound. Raises BadContent, DecoderLost, or Released."""
    child = _borrowed()
    ended = False
    try:
        child.send({"what": what, "path": str(path.absolute()), "rate": rate, "seconds": seconds})
        left = LONGEST
        while True:
            asked = time.monotonic()
            kind, payload = child.receive()
            left -= time.monotonic() - asked
            if left < 0:
                raise BadContent("bad_array", f"it takes more than {LONGEST / 60:.0f} minutes to be decoded", lasting=False)
            ended = kind in (DONE, BAD)
            if kind == BAD:
                raise BadContent(*json.loads(payload))
            if ended:
                return
            yield payload
    finally:
        if ended and not child.released:
            with _LOCK:
                _waiting.append(child)
        else:
            child.end()  # lost, released, or still working on an abandoned request


def _borrowed() -> Child:
    """Return an idle decoder of this process, or a new one."""
    while True:
        with _LOCK:
            child = _waiting.pop() if _waiting else None
        if child is None:
            return Child()
        if child.owner == os.getpid() and child.process.poll() is None:
            return child
        if child.owner == os.getpid():
            child.end()
