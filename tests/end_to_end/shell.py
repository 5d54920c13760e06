"""Commands as a user types them: another process, another folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SMOKE = ("experiment=smoke", "trainer.max_epochs=1", "trainer.threads=1")


def command(name: str, *arguments: str) -> list[str]:
    """The command line of `python -m gmu_lightning.<name>`."""
    return [sys.executable, "-m", f"gmu_lightning.{name}", *arguments]


def environment(store: Path | None, **variables: str) -> dict[str, str]:
    """This process's environment, with a store of the test's own, or none said, and one thread."""
    rest = {name: value for name, value in os.environ.items() if name != "GMU_STORE"}
    return {**rest, **({"GMU_STORE": str(store)} if store else {}), "OMP_NUM_THREADS": "1", **variables}


def typed(name: str, *arguments: str, folder: Path, store: Path | None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, and return its exit code and all it said."""
    return subprocess.run(
        command(name, *arguments),
        cwd=folder,
        env=environment(store, **variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def last_line(text: str) -> str:
    """The last line of what a command said."""
    return text.rstrip("\n").rsplit("\n", 1)[-1]
