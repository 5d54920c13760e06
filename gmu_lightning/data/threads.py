"""Work of many contents at once, in their order, and how many cores there are for it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

WINDOW = 64  # contents in flight between the reader, the threads and the disk


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def all_threads() -> Iterator[None]:
    """Whichever job comes first encodes for all, with every core, so that the features do not depend on its thread count."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def nothing() -> None:
    """There is nothing to let go of."""


def in_threads(
    workers: int, work: Callable[..., Any], items: Iterable[tuple], ended: Callable[[], None] = nothing, window: int = WINDOW
) -> Generator[Any, None, None]:
    """`work(*item)` of each, in their order; what is slow holds up none but those that come `window` after it.

    `ended` is called at the end, or where nobody wants the rest: then some work may still be going on, and it has to stop that.
    """
    import torch

    # One thread in each: what a network computes is then the same for any number of workers. Setting it sets it for all.
    threads = torch.get_num_threads()
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
