"""Train a job of a sweep on several devices, in a group of processes of its own.

Lightning would start the command of the whole sweep again for each further device. Here torch's elastic launcher starts this
module once for each device, and Lightning finds the group in the environment.

python -m gmu_lightning.sweep.group JOB.json
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from gmu_lightning.config.groups import import_from
from gmu_lightning.config.schema import RunConfig, TrainerConfig
from gmu_lightning.console import quiet, settle_in
from gmu_lightning.files import write_json, write_text
from gmu_lightning.movie import UserError
from gmu_lightning.parallel import cores
from gmu_lightning.signals import Raises, handle, how_ended
from gmu_lightning.sweep.job import INTERRUPTED, Job, begun, end_unfinished, ended, sentence_of, train_job, why_skipped
from gmu_lightning.visible import guard_streams


def perform_in_group(job: Job) -> str | None:
    """Train a job of a sweep on several devices, as `perform_in_sweep` does on one."""
    quiet()
    reason = why_skipped(job)
    if reason is None:
        with begun(job) as mine:
            if mine:
                _train_in_group(job)
    return reason


def devices_of(config: TrainerConfig) -> int:
    """Return the number of devices that a run asks for."""
    asked = config.devices
    if isinstance(asked, list):
        return len(asked)
    words = str(asked).split(",")
    if len(words) > 1:
        return len([word for word in words if word])
    if asked in ("auto", "-1", -1):
        import torch

        return max(1, torch.cuda.device_count()) if config.accelerator in ("auto", "gpu", "cuda") else 1
    return int(asked)


def _train_in_group(job: Job) -> None:
    config = job.config
    if config.trainer.threads is None:
        config = config.with_threads(max(1, cores() // devices_of(config.trainer)))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "job.json"
        plain = {"overrides": list(job.overrides), "folder": job.folder, "sweep": job.sweep, "token": job.run.token}
        write_json(path, {**plain, "config": config.mapping})
        process = subprocess.Popen([sys.executable, "-m", "gmu_lightning.sweep.group", str(path)], stdin=subprocess.DEVNULL)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        whys = [file.read_text(encoding="utf-8") for file in sorted(Path(scratch).glob("*.why"))]
    if job.run.status.get("state") in ("running", INTERRUPTED):  # a process died, and the first one was ended with it
        end_unfinished(job.run, UserError(next(iter(whys), how_ended(code))))


def main() -> None:
    """Start the processes of a job, or be one of them if the environment says so."""
    (path,) = sys.argv[1:]
    if hasattr(signal, "SIGUSR2"):
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # the process of the job passes it on, as SIGTERM
    plain = json.loads(Path(path).read_text(encoding="utf-8"))
    if plain["config"].get("config_dir"):
        import_from(plain["config"]["config_dir"])
    config = RunConfig.of(plain["config"])
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if "RANK" in os.environ:
        settle_in()
        guard_streams()
        handle(Raises(), "SIGTERM")
        job = Job(config, plain["overrides"], plain["folder"], plain["sweep"])
        raise SystemExit(_lead_run(job, plain["token"]) if os.environ["RANK"] == "0" else _help(job, Path(path)))
    raise SystemExit(_lead(path, devices_of(config.trainer)))


def _lead(path: str, devices: int) -> int:
    """Start one process for each device, wait for all, and return an exit code. If one dies, the others are ended."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process sets its threads itself
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "gmu_lightning.sweep.group", path)
    except (ChildFailedError, SignalException):  # the processes have recorded the reason, or the sweep does
        return 1
    return 0


def _lead_run(job: Job, token: str | None) -> int:
    """Train as the first process of the group, record the end of the run, and return an exit code."""
    quiet()
    job.run.token = token
    ended(job, lambda: train_job(job))
    return 0 if job.run.status.get("state") == "finished" else 1


def _help(job: Job, path: Path) -> int:
    """Train as a further process of the group, and return an exit code. An error leaves its sentence beside the job's file."""
    logging.getLogger("gmu_lightning").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as scratch:
        helper = replace(job, folder=scratch, continues=job.folder)
        helper.run.begin(job.config.mapping, job.overrides)
        try:
            train_job(helper)
        except Exception as error:
            write_text(path.with_name(f"{os.environ['RANK']}.why"), sentence_of(error))
            return 1
    return 0


def _end_with(parent: int) -> Any:
    """End this process as Ctrl-C does once its parent process has ended."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
