"""Measure the preparation of trailers by one worker and by several, its memory over time, and the cost of a kill.

python benchmarks/trailers.py [TRAILERS] [--folder FOLDER]     200 trailers by default; exit 1 if the results differ
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.data.moviescope_files import write_lines
from tests.encoders import clips

SECONDS, SIZE = 2.0, (64, 64)
TEMPLATES = 20  # encoded trailers; the others are copies with a few bytes that decoders ignore
WORDS = ("data=moviescope", "modalities=video+audio", "data.video=trailers", "data.audio=trailers")
ENCODERS = ("encoder/video=trailer", "encoder/audio=trailer_mel96")


def main() -> None:
    """Write the trailers, prepare them in three ways, and print the seconds and memory of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trailers", type=int, nargs="?", default=200)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    root = write(folder / "movies", given.trailers)
    workers = len(os.sched_getaffinity(0))

    print(f"{given.trailers} trailers of {SECONDS:g} s, {SIZE[1]} x {SIZE[0]}, with sound; {workers} cores", flush=True)
    several = timed(root, folder / "several", workers)
    single = timed(root, folder / "single", 1)
    print(f"{workers} workers against 1: {single / several:.2f} times as fast")
    redone = killed(root, folder / "killed", workers, given.trailers)
    same = all(values(folder / "several") == values(folder / other) for other in ("single", "killed"))
    print(f"1 worker, {workers} workers, killed and resumed: {'the same bytes' if same else 'DIFFERENT BYTES'}")
    if given.folder is None:
        shutil.rmtree(folder)
    raise SystemExit(not same or redone > 2 * workers)


def write(root: Path, trailers: int) -> Path:
    """Write a Moviescope data set with distinct trailers, and return its folder."""
    if (root / "train.jsonl").exists():
        return root
    (root / "trailers").mkdir(parents=True)
    templates = [
        clips.write(root / f"{n}.mp4", SECONDS, SIZE, noise=n, tone=200.0 + 40 * n).read_bytes() for n in range(TEMPLATES)
    ]
    for n in range(trailers):
        free = b"\0\0\0\x10free" + n.to_bytes(8)  # an MP4 box that decoders skip
        (root / "trailers" / f"{n}.mp4").write_bytes(templates[n % TEMPLATES] + free)
    records = [{"id": n, "synopsis": f"Movie {n}.", "label": [("Comedy", "Drama")[n % 2]]} for n in range(trailers)]
    val, test = trailers * 8 // 10, trailers * 9 // 10
    for split, part in (("train", records[:val]), ("dev", records[val:test]), ("test", records[test:])):
        write_lines(root / f"{split}.jsonl", part)
    return root


def timed(root: Path, store: Path, workers: int) -> float:
    """Return the seconds of one complete preparation, and print them with the memory."""
    start = time.perf_counter()
    memory = []
    with preparing(root, store, workers) as process:
        while process.poll() is None:
            memory.append(megabytes(process.pid))
            time.sleep(0.5)
    seconds = time.perf_counter() - start
    assert process.returncode == 0, f"prepare ended with {process.returncode}"
    tenths = [max(memory[len(memory) * n // 10 : len(memory) * (n + 1) // 10] or [0]) for n in range(10)]
    print(f"{workers} workers: {seconds:.1f} s, {len(finished(store)) / seconds:.1f} contents a second")
    print(f"  most memory, decoders included, in each tenth of the time: {' '.join(f'{m:.0f}' for m in tenths)} MB", flush=True)
    return seconds


def killed(root: Path, store: Path, workers: int, trailers: int) -> int:
    """Return the number of contents that are prepared twice if `prepare` is killed half-way and started again."""
    begun = time.time()
    with preparing(root, store, workers) as process:
        while len(finished(store)) < trailers // 2:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    kept = finished(store)
    with preparing(root, store, workers) as process:
        process.wait()
    after = finished(store)
    redone = sum(after[name] != written for name, written in kept.items())
    print(f"killed with {len(kept)} of {len(after)} contents done: {redone} of these done again, and at most {workers} in flight")
    assert min(after.values()) > begun * 1e9
    return redone


@contextmanager
def preparing(root: Path, store: Path, workers: int) -> Iterator[subprocess.Popen]:
    """Run `prepare` as a user would."""
    words = [*WORDS, *ENCODERS, f"data.root={root}", f"store.workers={workers}", f"store.dir={store}"]
    command = [sys.executable, "-m", "gmu_lightning.prepare", *words]
    store.mkdir(parents=True, exist_ok=True)
    with (store / "log.txt").open("w") as log, subprocess.Popen(command, cwd=store, stdout=log, stderr=log) as process:
        yield process


def megabytes(pid: int) -> float:
    """Return the resident memory of a process and its children, in MB."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:  # it ended meanwhile
            continue
        if pid in (int(fields["Pid"]), int(fields["PPid"])):
            total += int(fields.get("VmRSS", "0 kB").split()[0])
    return total / 1024


def finished(store: Path) -> dict[str, int]:
    """Return {a prepared content's file: its time of writing in nanoseconds}."""
    parts = (path for path in (store / "parts").glob("*/*.npz") if not path.name.startswith("."))
    return {f"{path.parent.name}/{path.name}": path.stat().st_mtime_ns for path in parts}


def values(store: Path) -> dict[str, bytes]:
    """Return {column: its bytes}."""
    return {path.parent.name: path.read_bytes() for path in (store / "columns").glob("*/values.bin")}


if __name__ == "__main__":
    main()
