"""Signals that end a process. They raise KeyboardInterrupt, and stay an interruption whatever a library makes of that error."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = ("SIGINT", "SIGTERM", "SIGUSR2")  # Slurm announces a preemption by SIGTERM or, through submitit, by SIGUSR2


class Terminated(KeyboardInterrupt):
    """SIGTERM came. Work ends as after Ctrl-C, with another exit code."""


class Raises:
    """A signal handler that raises an error, and remembers it.

    Args:
        error: class of the error.

    Attributes:
        raised: the last error; None before a signal.
    """

    def __init__(self, error: type[KeyboardInterrupt] = KeyboardInterrupt):
        self.error = error
        self.raised: KeyboardInterrupt | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise the error."""
        self.raised = self.error()
        raise self.raised


def handle(handler: Any, *names: str) -> dict[int, Any]:
    """Set the handler of these signals, where the system has them. SIGINT keeps another handler than Python's own.

    Call it in the main thread. Return {number: handler before}.
    """
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # a process in the background ignores SIGINT
        numbers = [number for number in numbers if number != signal.SIGINT]
    return {number: signal.signal(number, handler) for number in numbers}


@contextmanager
def as_interruption() -> Iterator[None]:
    """Raise KeyboardInterrupt in place of an error that a library made of it within the context.

    Lightning's Trainer makes it a SystemExit, and pybind11 makes it a TypeError and forgets where it came from.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        interruption = _behind(error)
        if interruption is None:
            raise
        raise interruption from None


def _behind(error: BaseException) -> KeyboardInterrupt | None:
    """Return the interruption that led to an error, by its context or by a handler that has raised."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, KeyboardInterrupt):
            return found
        found = found.__cause__ or found.__context__
    handlers = (signal.getsignal(getattr(signal, name)) for name in ENDING if hasattr(signal, name))
    return next((one.raised for one in handlers if isinstance(one, Raises) and one.raised is not None), None)
