"""Frames and sound of a trailer's file, decoded by children that can be killed."""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gmu_lightning.encoders.decoder import BAD, DONE, HEADER, SIZE
from gmu_lightning.movie import BadContent

PROGRAM = Path(__file__).with_name("decoder.py")
VERSION = 1  # counts up when frames or sound of the same file become others
PATIENCE = 30.0  # seconds without a word from a decoder, after which it hangs


def frames(path: Path, rate: float, seconds: float) -> Iterator[np.ndarray]:
    """uint8 (H, W, 3): the picture shown at 0, 1 / rate, 2 / rate, ... seconds, while that is before `seconds`.

    One at a time: a trailer of any length takes the memory of a few pictures.

    Raises:
        BadContent: it has no picture, or cannot be decoded.
        Lost: the decoder hung or died.
    """
    for _, payload in _answers(path, "frames", rate, seconds):
        height, width = SIZE.unpack_from(payload)
        yield np.frombuffer(payload, np.uint8, offset=SIZE.size).reshape(height, width, 3)


def sound(path: Path, rate: int, seconds: float) -> Iterator[np.ndarray]:
    """float32 (n,), piece by piece: `rate` samples a second, the mean of the channels, the first `seconds` of it.

    Raises:
        BadContent: it has no sound, or cannot be decoded.
        Lost: the decoder hung or died.
    """
    for _, payload in _answers(path, "sound", rate, seconds):
        yield np.frombuffer(payload, "<f4")


def twice(decode: Callable[[], np.ndarray]) -> np.ndarray:
    """What it gives, at the second try where the first lost its decoder: that may have been ill, and not the file.

    Raises:
        BadContent: the file is to blame.
    """
    try:
        return decode()
    except Lost:
        pass
    try:
        return decode()
    except Lost as lost:
        raise BadContent("bad_array", f"{lost}, twice", lasting=False) from lost


def release() -> None:
    """End all children of this process; whoever reads from one is told by `Released`."""
    with _LOCK:
        own = [child for child in _children if child.owner == os.getpid()]
        waiting = set(_waiting)
        _waiting.clear()
    for child in own:
        child.released = True
        child.process.kill()
        if child in waiting:  # the others are for their readers to bury
            child.end()


class Lost(Exception):
    """A child hung or died; the text says which."""


class Released(Exception):
    """A child was ended by `release`, in the middle of its work."""


class Child:
    """One decoder. Its session is its own: an interrupt from the keyboard is for its parent to answer."""

    def __init__(self) -> None:
        self.owner, self.released = os.getpid(), False
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM)],  # -P: the modules beside it are no top-level ones
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

    def ask(self, request: dict[str, object]) -> None:
        """Raises Lost."""
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
        except OSError as error:
            raise self._death() from error

    def message(self) -> tuple[bytes, bytearray]:
        """(what, its bytes). Raises Lost."""
        kind, size = HEADER.unpack(self._read(HEADER.size))
        return kind, self._read(size)

    def end(self) -> None:
        """Kill it and leave nothing behind."""
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
                raise Lost(f"the decoder hung for {PATIENCE:.0f} s and was stopped")
            got = self.process.stdout.readinto(view[at:])  # type: ignore[union-attr]
            if not got:
                raise self._death()
            at += got
        return taken

    def _death(self) -> Lost | Released:
        code = self.process.wait()
        if self.released:
            return Released()
        return Lost(f"the decoder died ({f'signal {-code}' if code < 0 else f'exit {code}'})")


_LOCK = threading.Lock()
_children: set[Child] = set()
_waiting: list[Child] = []
atexit.register(release)


def _answers(path: Path, what: str, rate: float, seconds: float) -> Iterator[tuple[bytes, bytearray]]:
    """The messages before the last. Raises BadContent, Lost."""
    child = _borrowed()
    ended = False
    try:
        child.ask({"what": what, "path": str(path.absolute()), "rate": rate, "seconds": seconds})
        while True:
            kind, payload = child.message()
            ended = kind in (DONE, BAD)
            if kind == BAD:
                raise BadContent(*json.loads(payload))
            if ended:
                return
            yield kind, payload
    finally:
        if ended and not child.released:
            with _LOCK:
                _waiting.append(child)
        else:
            child.end()  # lost, or in the middle of what nobody wants any more


def _borrowed() -> Child:
    while True:
        with _LOCK:
            child = _waiting.pop() if _waiting else None
        if child is None:
            return Child()
        if child.owner == os.getpid() and child.process.poll() is None:
            return child
        if child.owner == os.getpid():
            child.end()
