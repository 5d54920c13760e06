"""The output of a process: streams that survive a closed terminal or pipe, and the logger that prints to stderr.

Messages of level INFO show the progress of a run. A job of a sweep is quiet: it shows only warnings.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any, TextIO


class _Lasting(io.FileIO):
    """A file to write to. Once its other end is closed, it leads to the null device, so that a print never ends a job."""

    def write(self, data: Any, /) -> int:
        """Write, to the null device if the other end is closed."""
        try:
            return super().write(data) or 0
        except OSError as refused:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self.fileno() == 1 and multiprocessing.parent_process() is None:
                print(f"stdout takes no more ({refused.strerror}): nothing is printed, every file is written", file=sys.stderr)
            return memoryview(data).nbytes


class _Stderr(logging.Handler):
    """Prints messages unchanged to the stderr of the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        print(record.getMessage(), file=sys.stderr, flush=True)


LOGGER = logging.getLogger("gmu_lightning")


def loud() -> None:
    """Show messages of this package from level INFO on at stderr from now on, and nowhere else."""
    if not any(isinstance(handler, _Stderr) for handler in LOGGER.handlers):
        LOGGER.addHandler(_Stderr())
    LOGGER.propagate = False
    LOGGER.setLevel(logging.INFO)


def quiet() -> None:
    """Show only warnings and errors of this package from now on."""
    loud()
    LOGGER.setLevel(logging.WARNING)


def settle_in() -> None:
    """Prepare this process: it survives a closed stdout or stderr, can print any text, and draws figures without a screen.

    Replace `sys.stdout` and `sys.stderr` unless somebody captures them, set `MPLBACKEND`, and call `loud`.
    """
    loud()
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
