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
    """Set the handler of these signals, and return {number: handler before}. Call it in the main thread.

    A signal that the system lacks is left out. So is SIGINT if its handler is not Python's own.
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


def how_ended(code: int | None) -> str:
    """Return a clause on a process that ended with `code` in the middle of its work."""
    name = signal.Signals(-code).name if code and code < 0 else f"exit code {code or 0}"
    hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"
