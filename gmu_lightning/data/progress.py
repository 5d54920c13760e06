"""Progress of what takes a while: a bar on a terminal, plain lines elsewhere, nothing in a quiet job."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 30.0  # seconds between two lines
QUIET = "GMU_LIGHTNING_QUIET"  # set in the jobs of a sweep, whose console shows one line per finished job


@contextmanager
def track(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show progress while inside; the function it gives advances it by so many movies."""
    if os.environ.get(QUIET):
        yield lambda movies: None
    elif sys.stderr.isatty():
        with _bar(what, total) as advance:
            yield advance
    else:
        lines = _Lines(what, total)
        yield lines.advance
        lines.done()


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda movies: bar.advance(task, movies)


class _Lines:
    """A line at the end, and before it one every so often, with the time that is left at the pace so far."""

    def __init__(self, what: str, total: int):
        self.what, self.total, self.done_so_far = what, total, 0
        self.start = self.last = time.monotonic()
        self.lock = threading.Lock()

    def advance(self, movies: int) -> None:
        with self.lock:
            self.done_so_far += movies
            now = time.monotonic()
            if now - self.last < EVERY or self.done_so_far >= self.total:
                return
            self.last = now
            left = (now - self.start) / self.done_so_far * (self.total - self.done_so_far)
            self._say(f"{self.done_so_far} of {self.total} movies, about {_duration(left)} left")

    def done(self) -> None:
        self._say(f"{self.total} movies in {time.monotonic() - self.start:.1f} s")

    def _say(self, text: str) -> None:
        print(f"{self.what}: {text}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
