"""Commands as a user types them: another process, another folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .forked import forks

PATIENCE = 600  # seconds: only a command that hangs takes longer, also on a busy machine
SMOKE = ("experiment=smoke", "trainer.max_epochs=1", "trainer.threads=1")


def command(name: str, *arguments: str) -> list[str]:
    """Return the command line of `python -m gmu_lightning.<name>`."""
    return [sys.executable, "-m", f"gmu_lightning.{name}", *arguments]


def environment(store: Path | None, **variables: str) -> dict[str, str]:
    """Return this process's environment with one thread, and with the test's store if it has one."""
    rest = {name: value for name, value in os.environ.items() if name != "GMU_STORE"}
    return {**rest, **({"GMU_STORE": str(store)} if store else {}), "OMP_NUM_THREADS": "1", **variables}


def typed(name: str, *arguments: str, folder: Path, store: Path | None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, and return its exit code and output.

    A command is a fork of a process with the same libraries, unless it has variables that a new process alone would heed.
    """
    if not variables.keys() - {"PYTHONPATH"} and not any(
        (Path(place) / "sitecustomize.py").exists() for place in variables.get("PYTHONPATH", "").split(os.pathsep)
    ):
        return forks().run([f"gmu_lightning.{name}", *arguments], folder, environment(store, **variables), PATIENCE)
    return subprocess.run(
        command(name, *arguments),
        cwd=folder,
        env=environment(store, **variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def last_line(text: str) -> str:
    """Return the last line of a command's output."""
    return text.rstrip("\n").rsplit("\n", 1)[-1]
