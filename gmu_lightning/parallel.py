"""Ordered work in threads, and its progress: a bar on a terminal, plain lines elsewhere; a quiet job shows no progress."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)
EVERY = 30.0  # seconds between two lines
WINDOW = 64  # contents in flight between the reader, the threads and the disk


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def all_threads() -> Iterator[None]:
    """Let torch use every core while inside: the first job encodes for all, and features depend on no job's thread count."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def nothing() -> None:
    """Return at once: the default of `in_threads`' argument `ended`."""


def in_threads(
    workers: int, work: Callable[..., Any], items: Iterable[tuple], ended: Callable[[], None] = nothing, window: int = WINDOW
) -> Generator[Any, None, None]:
    """Yield `work(*item)` of each item, in their order. An error of `work` is raised in the place of its result.

    Items are taken only as results are asked for. Until the generator ends, torch has one thread in the whole process, the
    caller's thread included.

    Args:
        workers: number of threads; torch has one thread in each, so that results are the same for any number of workers.
        ended: called at the end, also where the caller stops early. Work may still go on then, and `ended` has to stop it.
        window: how many items are in flight, finished ones included; a slow item holds up those that come so much later.
    """
    import torch

    threads = torch.get_num_threads()  # setting it in one thread sets it for all
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            started: deque[Future] = deque()
            for item in items:
                started.append(pool.submit(work, *item))
                if len(started) == window:
                    yield started.popleft().result()
            while started:
                yield started.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            ended()
            torch.set_num_threads(threads)


@contextmanager
def track(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show progress while inside. Yield the function that advances it by a number of movies.

    Args:
        what: name of the work.
        total: number of movies.
    """
    if not logger.isEnabledFor(logging.INFO):
        yield lambda movies: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total)
            yield lambda movies: bar.advance(task, movies)
    else:
        start = last = time.monotonic()
        done = 0

        def advance(movies: int) -> None:
            nonlocal done, last
            done, now = done + movies, time.monotonic()
            if now - last >= EVERY and done < total:
                last = now
                left = (now - start) / done * (total - done)
                logger.info("%s: %d of %d movies, about %s left", what, done, total, duration(left))

        yield advance
        logger.info("%s: %d movies in %.1f s", what, total, time.monotonic() - start)


def duration(seconds: float) -> str:
    """Return a time as text, such as `40 s`, `12 min` or `2.5 h`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
