"""Hold signals back until a fit has saved its state."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from gmu_lightning.signals import ENDING


class SafelyStopped(BaseException):
    """Ends a fit after a signal: its state is saved, or saving it would take too long."""


class Interruption:
    """Context manager that notes signals instead of obeying them at once.

    `deliver` obeys them later. A second Ctrl-C is obeyed at once. Signals that the process ignores stay ignored, and outside the
    main thread, which alone gets signals, nothing changes.

    Attributes:
        pending: the number of the first signal that came inside the context; None before it.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in ENDING:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.getsignal(number)
        self.listen()
        return self

    def listen(self) -> None:
        """Note signals again, after another library has replaced the handlers within the context."""
        for number in self._before:
            signal.signal(number, self._note)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def deliver(self) -> None:
        """Obey the pending signal as if it came now. Call it after the context. Raises KeyboardInterrupt if nothing else does."""
        if self.pending is not None:
            signal.raise_signal(self.pending)
        raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.pending = self.pending or number
