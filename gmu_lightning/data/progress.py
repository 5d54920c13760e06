"""Progress of what takes a while: a bar on a terminal, a plain line elsewhere, nothing in a quiet job."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
        start = time.perf_counter()
        yield lambda movies: None
        print(f"{what}: {total} movies in {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda movies: bar.advance(task, movies)
