"""Compare hydra/launcher=ray on a cluster of this machine with hydra/launcher=stacked: jobs per second, and start-up.

python benchmarks/many_machines.py [ROUNDS] [JOBS]

Both train the same tiny jobs on frozen vectors in two workers. The rate counts from the end of the fifth job to that of the last.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness import alternated, ratios, spread, table

FIRST = 5  # job from whose end on jobs are counted
LAUNCHERS = {"ray": ("hydra/launcher=ray", "hydra.launcher.address=local"), "stacked": ("hydra/launcher=stacked",)}


class Timed(NamedTuple):
    """Jobs per second after the fifth, and the seconds from the command to the end of the first job and of the sweep."""

    rate: float
    start: float
    wall: float


def timed(folder: Path, launcher: str, jobs: int) -> Timed:
    """Run a sweep of the launcher in a folder that holds the store."""
    sweep = Path(tempfile.mkdtemp(dir=folder))
    words = ["data=planted", "data.movies=1200", "data.modalities=video+audio", "modalities=video+audio", "fusion.dim=64"]
    words += ["trainer.max_epochs=10", "trainer.threads=1", f"seed=range(0,{jobs})", f"hydra.sweep.dir={sweep}"]
    words += [*LAUNCHERS[launcher], "hydra.launcher.workers=2", f"store.dir={folder / 'store'}"]
    begin = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "gmu_lightning.train", "-m", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    wall = time.time() - begin
    ends = sorted(path.stat().st_mtime for path in sweep.glob("*/status.json"))
    if done.returncode or len(ends) != jobs:
        raise SystemExit(done.stderr.decode())
    return Timed((jobs - FIRST) / (ends[-1] - ends[FIRST - 1]), ends[0] - begin, wall)


def main(rounds: int = 3, jobs: int = 60) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        timed(folder, "stacked", FIRST + 1)  # fills the store
        found = alternated({name: partial(timed, folder, name, jobs) for name in LAUNCHERS}, rounds)
    rows = [
        {"launcher": name}
        | {
            f"{field}, {unit}": spread([getattr(one, field) for one in of])
            for field, unit in (("rate", "jobs/s"), ("start", "s"), ("wall", "s"))
        }
        for name, of in found.items()
    ]
    print(table(rows))
    print("rate of ray / stacked:", ratios([one.rate for one in found["ray"]], [one.rate for one in found["stacked"]]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
