"""Run a command in a child process: show its output line by line, and pass an interruption on to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO, NamedTuple

from gmu_lightning.movie import UserError
from gmu_lightning.signals import how_ended
from gmu_lightning.sweep.job import INTERRUPTED

IDLE = 1.0  # seconds without output, after which the last line on stderr is shown
ROOT = Path(__file__).resolve().parents[2]  # the folder that holds the package


class Ended(NamedTuple):
    """The end of a command.

    Attributes:
        code: its exit code; negative for a signal.
        reason: its last line on stderr, or a sentence on the signal.
    """

    code: int
    reason: str


def perform(command: str, arguments: Sequence[str]) -> Ended:
    """Run `python -m gmu_lightning.COMMAND ARGUMENTS` in the current folder, and show its output.

    If the command fails, its last line on stderr is not shown: the caller raises it. Ctrl-C interrupts the command, and the next
    one ends it at once. The command is interrupted too if this process ends.

    Raises:
        KeyboardInterrupt: the command was interrupted, and has ended.
        UserError: the command could not be started.
    """
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "gmu_lightning.api.child", command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,  # a signal to this process's group would arrive twice otherwise
        )
    except OSError as error:
        raise UserError(f"{command} cannot be started ({error.strerror}): give fewer or shorter options") from error
    output = _Output(process)
    interrupted, signals = False, chain((signal.SIGINT, signal.SIGTERM), repeat(signal.SIGKILL))
    try:
        while process.returncode is None:
            try:
                output.show()
            except KeyboardInterrupt:
                interrupted = True
                _send(process, next(signals))
    finally:
        if process.returncode is None:
            _send(process, signal.SIGINT)
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
    if interrupted or process.returncode in (130, -signal.SIGINT):
        raise KeyboardInterrupt(INTERRUPTED)
    if process.returncode < 0:
        output.release()
        return Ended(process.returncode, f"{command} did not finish: {how_ended(process.returncode)}")
    if process.returncode == 0:
        output.release()
    return Ended(process.returncode, output.last.strip())


def _environment() -> dict[str, str]:
    """Return the child's environment, in which Python finds this package."""
    found = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    if str(ROOT) not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return found


def _send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to the process and its workers, as a terminal does."""
    with suppress(OSError):
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.write(b"\n")  # so that `child.watch` does not send a signal too
            process.stdin.close()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


class _Output:
    """The output of a process, shown on this process's own streams.

    Attributes:
        last: the last line on stderr that is not empty.
        held: the same line while it is not shown.
    """

    def __init__(self, process: subprocess.Popen[bytes]):
        self.process = process
        self.last = self.held = ""
        self._open = 2
        self._lines: SimpleQueue[tuple[str, str | None]] = SimpleQueue()
        for name in ("stdout", "stderr"):
            Thread(target=self._read, args=(name, getattr(process, name)), daemon=True).start()

    def _read(self, name: str, pipe: IO[bytes]) -> None:
        with pipe:
            for line in iter(pipe.readline, b""):
                self._lines.put((name, line.decode(errors="replace")))
        self._lines.put((name, None))

    def show(self) -> None:
        """Show lines until the process has ended. It may be called again after an exception."""
        while self._open:
            try:
                name, line = self._lines.get(timeout=IDLE)
            except Empty:
                if self.process.poll() is not None:  # another process still holds its streams
                    break
                self.release()
                continue
            if line is None:
                self._open -= 1
                continue
            self.release()
            if name == "stdout":
                _print(line)
            elif line.strip():
                self.last = self.held = line
        self.process.wait()

    def release(self) -> None:
        """Show the line that is held back."""
        line, self.held = self.held, ""
        _print(line, error=True)


def _print(line: str, error: bool = False) -> None:
    with suppress(OSError, ValueError):  # a closed stream does not end the command
        print(line, end="", file=sys.stderr if error else sys.stdout, flush=True)
