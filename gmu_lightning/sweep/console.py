"""The surroundings of a process: a terminal or pipe that may close, and a notebook's backend for figures."""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any, TextIO


class _Lasting(io.FileIO):
    """A descriptor to write to. Once the other end is gone, it leads to the null device, so that no job is lost by a print."""

    def write(self, data: Any, /) -> int:
        """Write, to the null device if need be."""
        try:
            return super().write(data) or 0
        except OSError as refused:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self.fileno() == 1 and multiprocessing.parent_process() is None:
                print(f"stdout takes no more ({refused.strerror}): nothing is printed, every file is written", file=sys.stderr)
            return memoryview(data).nbytes


def settle_in() -> None:
    """Prepare this process: a closed stdout or stderr costs no file, any text can be printed, and figures need no screen."""
    os.environ["MPLBACKEND"] = "agg"
    sys.stdout = _lasting(sys.stdout, sys.__stdout__)
    sys.stderr = _lasting(sys.stderr, sys.__stderr__)


def _lasting(stream: TextIO | None, original: TextIO | None) -> TextIO:
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    if stream is not original or not isinstance(stream, io.TextIOWrapper):  # somebody captures it
        return stream
    raw = _Lasting(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
