"""Run a command for the Python process that started it, and interrupt it once that process has ended.

python -m gmu_lightning.api.child COMMAND ARGUMENTS
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def watch() -> None:
    """Interrupt this process, as Ctrl-C does, at the end of stdin, which the parent process holds open.

    The parent writes a byte before it interrupts this process itself.
    """
    if not os.read(0, 1):
        os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    """Run `python -m gmu_lightning.COMMAND ARGUMENTS` in this process."""
    command = sys.argv.pop(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process that was started in the background ignores SIGINT
    threading.Thread(target=watch, daemon=True).start()
    runpy.run_module(f"gmu_lightning.{command}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
