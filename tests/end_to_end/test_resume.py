"""A run that is killed anywhere goes on with the same command, and ends with the same bits as one that was never killed."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from gmu_lightning.callbacks import BEST, LAST, PREVIOUS
from gmu_lightning.experiment import train
from gmu_lightning.experiment.build import DatasetCache
from gmu_lightning.movie import UserError
from gmu_lightning.run import Run
from gmu_lightning.signals import Terminated
from gmu_lightning.sweep.job import Job, perform, perform_stacked

from .clean_forks import exit_code, started

SMALL = ("trainer.max_epochs=4", "data.batch_size=8", "trainer.save_every=0", "encoder.text.dropout=0.2", "fusion.dim=8")
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "accumulated": ("trainer.accumulate_grad_batches=2", "training=ogm_ge"),
    "plateau": ("scheduler=plateau", "scheduler.patience=0", "scheduler.share=0.2", "trainer.max_epochs=5"),
    "stopped early": ("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "trainer.max_epochs=8"),
    "validated twice": ("trainer.val_check_interval=0.4",),
    "two workers": ("data.workers=2",),
    "clipped": ("trainer.gradient_clip_val=0.1", "scheduler=onecycle"),
    "fine-tuned": (
        *("encoder.text.freeze=none", "data.token_budget=300"),
        *("encoder.image.freeze=all", "encoder.image.unfreeze_at_epoch=1"),
    ),
    "adapters": ("encoder.text.lora=2", "data.token_budget=300"),
}
OF_NETWORKS = ("fine-tuned", "adapters")
TIMES = ("seconds", "movies_per_second", "peak_memory_mb")


class Forked(NamedTuple):
    """A job that is done in processes of its own."""

    job: Job

    def at(self, folder: Path) -> Job:
        return dataclasses.replace(self.job, folder=str(folder))

    def run(self, folder: Path, before: Callable[[], None] | None = None) -> int:
        """Do the job in a process, after `before()`, and return its exit code; -9 if it was killed."""
        return exit_code(started(do, self.at(folder), before))

    def said(self, folder: Path) -> str:
        """Return what the last process printed to stderr."""
        return folder.with_suffix(".err").read_text()


def do(job: Job, before: Callable[[], None] | None) -> None:
    """Do a job on one thread, without figures, which would take three quarters of the time. Its stderr is in a file beside it."""
    sys.stderr = Path(job.folder).with_suffix(".err").open("w", buffering=1)
    multiprocessing.set_start_method("fork", force=True)  # of loader processes
    torch.set_num_threads(1)
    train.write_gates = lambda run: []
    if before is not None:
        before()
    perform_stacked([job], DatasetCache())


@pytest.fixture(scope="module")
def forked(job, pretrained) -> Callable[[str], Forked]:
    """(name of a variant) -> its job."""

    def make(name: str) -> Forked:
        return Forked(job(*SMALL, *(pretrained if name in OF_NETWORKS else ()), *VARIANTS[name], sweep="sweep"))

    return make


@pytest.fixture(scope="module")
def whole(forked, tmp_path_factory) -> Callable[[str], tuple[Path, int]]:
    """(name of a variant) -> the folder of a run that was never interrupted, and its number of hook events."""
    known: dict[str, tuple[Path, int]] = {}

    def make(name: str) -> tuple[Path, int]:
        if name not in known:
            folder = tmp_path_factory.mktemp("whole")
            counted = folder / "hooks.txt"
            assert forked(name).run(folder / "run", partial(hooks, partial(write_count, counted))) == 0
            known[name] = folder / "run", int(counted.read_text())
        return known[name]

    return make


def hooks(act: Callable[[int], Any]) -> None:
    """Call `act(n)` before the nth time that Lightning calls a hook of the callbacks."""
    from pytorch_lightning.trainer import call

    real, n = call._call_callback_hooks, 0

    def counted(*arguments: Any, **named: Any) -> None:
        nonlocal n
        n += 1
        act(n)
        real(*arguments, **named)

    call._call_callback_hooks = counted


def write_count(path: Path, n: int) -> None:
    path.write_text(str(n))


def sends(number: int, at: int) -> Callable[[], None]:
    """Return a function after which the process gets a signal at its hook event `at`."""
    return partial(_listen, number, at)


def _listen(number: int, at: int) -> None:
    if number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, terminated)
    hooks(partial(_send, number, at))


def _send(number: int, at: int, n: int) -> None:
    if n == at:
        os.kill(os.getpid(), number)


def _limit(size: int, after: int) -> None:
    """Let the system kill this process when it writes a file beyond a size, after some hook events."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    hooks(partial(_limit_at, size, after))


def _limit_at(size: int, after: int, n: int) -> None:
    if n >= after:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _fill_at(disk: Path, at: int, n: int) -> None:
    if n == at:
        fill(disk)


def _take_over(folder: Path, n: int) -> None:
    if n == 60:
        status = json.loads((folder / "status.json").read_text())
        (folder / "status.json").write_text(json.dumps({**status, "token": "another"}))


def terminated(*_: object) -> None:
    raise Terminated


def state(folder: Path) -> dict[str, Any]:
    """Return all that a run leaves, without times."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    last = torch.load(folder / "checkpoints" / LAST, weights_only=True)
    last["resume"].pop("seconds")
    last["history"]["rows"] = [{k: v for k, v in row.items() if k != "seconds"} for row in last["history"]["rows"]]
    return {
        "files": files,
        "best": torch.load(folder / "checkpoints" / BEST, weights_only=True),
        "last": last,
        "history": [{k: v for k, v in row.items() if k != "seconds"} for row in Run(folder).history],
        "metrics": {k: v for k, v in Run(folder).metrics.items() if not k.startswith(TIMES)},
        "predictions": {split: (folder / f"predictions/{split}.parquet").read_bytes() for split in ("val", "test")},
    }


def differences(a: Any, b: Any, place: str = "") -> Iterator[str]:
    """Yield the places at which two states differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from differences(a.get(key), b.get(key), f"{place}/{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for n, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from differences(one, other, f"{place}/{n}")
    elif not (torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b):
        yield place


def check_equal(folder: Path, whole: Path, what: str) -> None:
    assert Run(folder).status["state"] == "finished", (what, Run(folder).status)
    assert list(differences(state(folder), state(whole))) == [], what


def check_killed(forked: Forked, folder: Path, whole: Path, *at: int) -> None:
    """Kill a run at these hook events, the later ones after it went on, and check the end."""
    for n in at:
        forked.run(folder, sends(signal.SIGKILL, n))
    assert forked.run(folder) == 0
    check_equal(folder, whole, f"killed at hook events {at}")


@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_a_killed_run_ends_with_the_same_bits(forked, whole, tmp_path, share):
    run, events = whole("plain")
    check_killed(forked("plain"), tmp_path / "run", run, int(share * events))


@pytest.mark.heavy
def test_a_kill_at_any_hook_event_changes_nothing(forked, whole, tmp_path):
    """One event in `GMU_EVERY`, or in 6, and as many at a time as there are cores."""
    run, events = whole("plain")
    assert events >= 150
    one = forked("plain")

    def check(n: int) -> None:
        check_killed(one, tmp_path / f"{n}", run, n)
        shutil.rmtree(tmp_path / f"{n}")

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for _ in threads.map(check, range(1, events + 1, int(os.environ.get("GMU_EVERY", "6")))):
            pass


@pytest.mark.heavy
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "plain"])
def test_several_kills_change_nothing(forked, whole, tmp_path, name):
    run, events = whole(name)
    one, draw = forked(name), random.Random(name)
    for n in range(3):
        at = [draw.randrange(1, events // 2) for _ in range(draw.choice([2, 3]))]
        check_killed(one, tmp_path / f"{n}", run, *at)
        shutil.rmtree(tmp_path / f"{n}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR2, 143)])
def test_a_signal_saves_before_it_ends_the_run(forked, whole, tmp_path, number, code):
    run, events = whole("plain")
    one = forked("plain")
    assert one.run(tmp_path / "run", sends(number, events // 2)) == code
    assert Run(tmp_path / "run").status["state"] == "interrupted"
    resume = torch.load(tmp_path / "run/checkpoints" / LAST, weights_only=True)["resume"]
    assert resume["epoch"] >= 1
    assert one.run(tmp_path / "run") == 0
    check_equal(tmp_path / "run", run, f"ended by signal {number}")


def test_a_signal_before_the_only_batch_interrupts_the_run(job, tmp_path):
    """Lightning notes a signal that comes before its first batch, and ends the fit by a SystemExit of its own."""
    one = Forked(job(*SMALL, "trainer.max_epochs=1", "data.batch_size=64", sweep="sweep"))
    for at in range(1, 7):  # the hook events before the batch
        assert one.run(tmp_path / f"{at}", sends(signal.SIGTERM, at)) == 143, f"hook event {at}"
        assert Run(tmp_path / f"{at}").status["state"] == "interrupted"
    assert one.run(tmp_path / "3") == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_after_the_fit_interrupts_the_run_too(forked, whole, tmp_path, number, code):
    run, events = whole("plain")
    one = forked("plain")
    assert one.run(tmp_path / "run", sends(number, events - 4)) == code  # while test is predicted
    assert Run(tmp_path / "run").status["state"] == "interrupted"
    assert one.run(tmp_path / "run") == 0
    check_equal(tmp_path / "run", run, f"ended by signal {number}")


@pytest.mark.heavy
def test_a_kill_inside_any_write_of_a_checkpoint_changes_nothing(forked, whole, tmp_path):
    """The system kills a process that writes beyond a limit; the limits cut best.ckpt and last.ckpt at `GMU_PLACES` places."""
    run, _ = whole("plain")
    one, size = forked("plain"), (run / "checkpoints" / LAST).stat().st_size
    for n in range(0, 20, 20 // int(os.environ.get("GMU_PLACES", "5"))):
        limit, after = 1 + size * n // 20, 6 * n
        assert one.run(tmp_path / f"{n}", partial(_limit, limit, after)) == -signal.SIGXFSZ
        assert one.run(tmp_path / f"{n}") == 0
        check_equal(tmp_path / f"{n}", run, f"cut at {limit} bytes after hook {after}")


@pytest.mark.heavy
def test_a_full_disk_leaves_the_checkpoints_and_the_reason(forked, whole, tmp_path):
    run, _ = whole("plain")
    one, disk = forked("plain"), tmp_path / "disk"
    disk.mkdir()
    needed = sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) // 1024
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={4 * needed}k", "none", disk], check=False, capture_output=True
    ).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        for n in range(0, 20, 20 // int(os.environ.get("GMU_PLACES", "5"))):
            folder = disk / f"{n}"
            assert one.run(folder, partial(hooks, partial(_fill_at, disk, 9 * n + 5))) == 0
            status = Run(folder).status
            assert status["state"] == "failed", n
            assert "No space left on device): give a folder that this user may write to, on a disk with room" in status["why"]
            (disk / "ballast").unlink()
            assert one.run(folder) == 0 and Run(folder).status["state"] == "failed"  # a sweep does it only if asked
            assert one._replace(job=dataclasses.replace(one.job, retry=True)).run(folder) == 0
            check_equal(folder, run, f"full at hook {9 * n + 5}")
            shutil.rmtree(folder)
    finally:
        subprocess.run(["umount", disk], check=True)


def fill(disk: Path) -> None:
    """Fill a disk to its last byte."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def test_sigterm_waits_for_the_end_of_an_accumulation(forked, job, tmp_path):
    """No other checkpoint is written within an epoch, so the one that is left was saved for the signal."""
    words = [*SMALL, *VARIANTS["accumulated"], "trainer.save_every=1000"]
    one = Forked(job(*words, sweep="sweep"))
    for at in (14, 17):  # hook events of the first batches
        assert one.run(tmp_path / f"{at}", sends(signal.SIGTERM, at)) == 143
        resume = torch.load(tmp_path / f"{at}/checkpoints" / LAST, weights_only=True)["resume"]
        assert (resume["epoch"], resume["batch"] % 2) == (0, 0) and resume["batch"] > 0


@pytest.mark.parametrize("broken", [(LAST,), (LAST, PREVIOUS), (BEST,), (LAST, BEST)])
def test_a_damaged_checkpoint_is_named_and_left_out(forked, whole, tmp_path, broken):
    run, events = whole("plain")
    one = forked("plain")
    assert one.run(tmp_path / "run", sends(signal.SIGKILL, int(0.8 * events))) == -signal.SIGKILL
    for name in broken:
        flip(tmp_path / "run/checkpoints" / name)
    assert one.run(tmp_path / "run") == 0
    said = one.said(tmp_path / "run")
    assert all(f"checkpoints/{name} " in said for name in broken if (name, broken) != (BEST, (LAST, BEST)))
    assert ("continues after" in said) is (broken == (LAST,))
    check_equal(tmp_path / "run", run, f"with broken {broken}")


def flip(path: Path) -> None:
    """Change one bit of the largest tensor of a checkpoint; between tensors are bytes without meaning."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
        with archive.open(largest) as part:
            content = part.read()
    whole = bytearray(path.read_bytes())
    whole[whole.index(content, largest.header_offset) + len(content) // 2] ^= 1
    path.write_bytes(whole)


def test_a_killed_command_goes_on_and_says_from_where(forked, whole, tmp_path, capsys, monkeypatch):
    """The command itself, outside a sweep, and what it refuses."""
    run, events = whole("plain")
    one = forked("plain")
    assert one.run(tmp_path / "run", sends(signal.SIGKILL, int(0.6 * events))) == -signal.SIGKILL
    alone = dataclasses.replace(one.at(tmp_path / "run"), sweep=None)
    path = tmp_path / "run/checkpoints" / LAST

    def refused() -> str:
        with pytest.raises(UserError) as error:
            perform(alone)
        return str(error.value)

    kept = torch.load(path, weights_only=True)
    for key, value, sentence in (
        ("data_fingerprint", {"text": "0"}, "an unfinished run on other data (text changed since)"),
        ("batches", {**kept["resume"]["batches"], "devices": 2}, "other batches (devices was 2, is 1), so it cannot continue"),
        ("batches", {n: v for n, v in kept["resume"]["batches"].items() if n != "dropout masks"}, "(dropout masks was None, is "),
        ("batches", {n: v for n, v in kept["resume"]["batches"].items() if n != "packed texts"}, "(packed texts was None, is "),
    ):
        torch.save({**kept, "resume": {**kept["resume"], key: value}}, path)
        assert sentence in refused()
    config = {**kept["gmu_lightning"]["config"], "monitor": "val/f1_micro"}
    torch.save({**kept, "gmu_lightning": {**kept["gmu_lightning"], "config": config}}, path)
    assert "of other settings (monitor was val/f1_micro, is val/ap_micro): repeat its command to go on" in refused()
    torch.save(kept, path)
    monkeypatch.setattr(train, "write_gates", lambda run: [])
    perform(alone)
    assert "run continues after " in capsys.readouterr().err
    check_equal(tmp_path / "run", run, "by the command")
    assert not (tmp_path / "run/checkpoints" / PREVIOUS).exists()


def test_a_run_that_another_process_took_over_stops(forked, tmp_path):
    one, folder = forked("plain"), tmp_path / "run"
    assert one.run(folder, partial(hooks, partial(_take_over, folder))) == 0
    assert f"{folder} was taken over by another process, which goes on: this one stops" in one.said(folder)
    assert Run(folder).status["state"] == "running" and not Run(folder).metrics


def hold(folder: Path) -> None:
    with Run(folder).held():
        (folder / "held").touch()
        time.sleep(60)


def test_a_held_run_is_left_alone_until_its_holder_dies(forked, tmp_path):
    one, folder = forked("plain"), tmp_path / "run"
    holder = started(hold, folder)
    while not (folder / "held").exists():
        time.sleep(0.01)
    try:
        assert Run(folder).is_held
        assert one.run(folder) == 0
        assert not Run(folder).status
    finally:
        holder.kill()
        holder.join()
    assert not Run(folder).is_held
    assert one.run(folder) == 0
    assert Run(folder).status["state"] == "finished"
