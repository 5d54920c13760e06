"""make bench: CPU seconds of looking at a command and of one quickstart job. Variants alternate, so that load hits all alike."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile

ROUNDS = 3
JOB = ["experiment=quickstart", "trainer.threads=1", "trainer.progress=none"]
VARIANTS = {
    "train --help": ["--help"],
    "train --cfg job": ["--cfg", "job"],
    "a job, mean": [*JOB, "fusion=mean"],
    "a job, concat": [*JOB, "fusion=concat"],
    "a job, gmu_original": [*JOB, "fusion=gmu_original"],
    "a job, gmu_softmax": [*JOB, "fusion=gmu_softmax"],
}


def cpu_seconds(arguments: list[str], folder: str) -> float:
    """CPU seconds, user and system, of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "gmu_lightning.train", *arguments]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """One line per variant."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        cpu_seconds(VARIANTS["a job, mean"], folder)  # generates and prepares the movies that all jobs read
        for _ in range(ROUNDS):
            for name, arguments in VARIANTS.items():
                seconds[name].append(cpu_seconds(arguments, folder))
    print(f"{'CPU seconds':24}{'best':>8}{'median':>8}   of {ROUNDS}")
    for name, found in seconds.items():
        print(f"{name:24}{min(found):8.2f}{statistics.median(found):8.2f}")


if __name__ == "__main__":
    main()
