"""Commands in odd surroundings and with odd values end in success or in one sentence: no traceback, no hang."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from . import shell
from .forked import forks

RUN = ("experiment=smoke", "trainer.max_epochs=1", "trainer.threads=1")


class Ended(NamedTuple):
    """How a command in a shell ended."""

    code: int
    err: str

    def sound(self) -> bool:
        """Return whether it succeeded, or was refused in a last line that is a sentence."""
        quiet = "Traceback" not in self.err
        return quiet and (self.code == 0 or (self.code == 1 and len(shell.last_line(self.err)) > 20))


def in_shell(before: str, words: str, folder: Path, store: Path, variables: Mapping[str, str], after: str = "") -> Ended:
    """Type `train` in bash, after other commands, with some variables; a variable of value `-` is unset."""
    environment = shell.environment(store, **{name: value for name, value in variables.items() if value != "-"})
    environment = {name: value for name, value in environment.items() if variables.get(name) != "-"}
    python = " ".join(shell.command("train", *RUN))
    return in_bash(f"{before or 'true'}; exec {python} {words} {after}", folder, environment)


def in_bash(line: str, folder: Path, environment: dict[str, str]) -> Ended:
    """Run a line of bash that types one command."""
    try:
        done = subprocess.run(
            ["/bin/bash", "-c", line], cwd=folder, env=environment, capture_output=True, timeout=600, check=False
        )
    except subprocess.TimeoutExpired:
        return Ended(124, "it hangs")
    return Ended(done.returncode, done.stderr.decode(errors="replace"))


NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}  # Python leaves a part of a file of bytecode behind that it may not write whole
SURROUNDINGS = {
    "no HOME": ("", "", {"HOME": "-"}),
    "HOME that does not exist": ("", "", {"HOME": "/proc/nowhere"}),
    "no PATH, and so no git": ("", "", {"PATH": "/nonexistent"}),
    "no USER": ("", "", {"USER": "-", "LOGNAME": "-"}),
    "dumb terminal": ("", "", {"TERM": "dumb"}),
    "no terminal": ("", "", {"TERM": "-"}),
    "no columns": ("", "trainer.progress=bar", {"COLUMNS": "0"}),
    "C locale": ("", "", {"LC_ALL": "C"}),
    "POSIX locale without UTF-8 mode": ("", "", {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "locale that does not exist": ("", "", {"LC_ALL": "xx_YY.UTF-8"}),
    "Turkish locale": ("", "", {"LANG": "tr_TR.UTF-8"}),
    "ASCII output": ("", "", {"PYTHONIOENCODING": "ascii"}),
    "odd timezone": ("", "", {"TZ": "Odd/Zone"}),
    "deleted folder": ("mkdir gone; cd gone; rmdir ../gone", "", {}),
    "3 GB of addresses": ("ulimit -v 3000000", "", {}),
    "6 GB of addresses": ("ulimit -v 6000000", "", {}),
    "few open files": ("ulimit -n 64", "", {}),
    "no core files": ("ulimit -c 0", "", {}),
    "small files": ("ulimit -f 20; trap '' XFSZ", "", NO_BYTECODE),
    "small stack": ("ulimit -s 1024", "", {}),
    "closed stdin": ("exec <&-", "", {}),
    "closed stdout": ("exec >&-", "", {}),
    "full stdout": ("exec >/dev/full", "", {}),
    "no temporary folder": ("", "", {"TMPDIR": "/proc/nowhere"}),
    "many threads asked by OpenMP": ("", "", {"OMP_NUM_THREADS": "999"}),
    "OpenMP variable that is no number": ("", "", {"OMP_NUM_THREADS": "many"}),
    "CUDA devices that are none": ("", "", {"CUDA_VISIBLE_DEVICES": "7"}),
    "umask 777": ("umask 777", "", NO_BYTECODE),
    "Slurm variables": ("", "", {"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_JOB_ID": "1"}),
    "W&B without account": ("", "logger=wandb", {"WANDB_MODE": "offline", "WANDB_API_KEY": "-"}),
    "Python warnings as errors": ("", "check=true", {"PYTHONWARNINGS": "error::UserWarning"}),
    "optimised Python": ("", "", {"PYTHONOPTIMIZE": "2"}),
}
FOLDERS = {
    "read-only folder": ("mkdir closed; chmod 555 closed; cd closed", ""),
    "file instead of the outputs": ("touch outputs", ""),
    "file instead of the store": ("touch taken", "store.dir=taken"),
    "store in a file": ("touch taken", "store.dir=taken/store"),
    "folder with blanks and accents": ("mkdir 'ä b (1)'; cd 'ä b (1)'", ""),
    "folder in Chinese": ("mkdir 电影; cd 电影", "hydra.run.dir=跑"),
    "folder with a line break": ("mkdir $'a\\nb'; cd $'a\\nb'", ""),
    "folder with an equals sign and a dollar": ("mkdir 'a=$b'; cd 'a=$b'", ""),
    "over-long folder of the run": ("", f"hydra.run.dir={'x' * 300}"),
    "over-long path": ("", f"data.root={'y/' * 3000}"),
}
VALUES = (
    *("fusion=null", "encoder/text=null", "fusion.dim=10000000", "fusion.dim=65536", "optimizer.lr=-1", "optimizer.lr=nan"),
    *("optimizer.lr=0", "encoder.image.size=100000", "encoder.image.size=8", "data.modalities=null", "trainer.accelerator=tpu"),
    *(
        "monitor=val/odd",
        "monitor=val/f1/Odd",
        "+trainer.check_val_every_n_epoch=2",
        "+trainer.max_steps=1",
        "data.workers=10000",
    ),
    *(
        "data.workers=2",
        "data.movies=100000000",
        "data.movies=6",
        "data.batch_size=1",
        "data.batch_size=1000000000",
    ),
    *(
        "trainer.devices=0",
        "trainer.devices=99",
        "trainer.strategy=odd",
        "trainer.precision=16-mixed",
    ),
    *(
        "trainer.precision=64-true",
        "trainer.compile=maybe",
        "trainer.gradient_clip_val=0",
        "data.limit=1",
        "data.limit=3/1/1",
        "loss.pos_weight=odd",
    ),
    *(
        "scheduler=plateau",
        "fusion.head=maxout",
        "optimizer.betas=[2,3]",
        "+optimizer.odd=1",
        "+fusion.odd=1",
    ),
    *(
        "encoder.text.dim=1",
        "seed=18446744073709551615",
        "data.seed=18446744073709551615",
        "modalities=text+text",
        "modalities=image",
        "check=maybe",
    ),
    *("hydra.launcher.n_jobs=2", "trainer.progress=odd", "callbacks=odd", "store.workers=1024", "encode.backend=torch"),
)


@pytest.mark.heavy
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_odd_surroundings_end_soundly(name, tmp_path):
    before, words, variables = SURROUNDINGS[name]
    ended = in_shell(before, words, tmp_path, tmp_path / "store", variables)
    assert ended.sound(), ended


@pytest.mark.heavy
@pytest.mark.parametrize("name", FOLDERS)
def test_odd_folders_end_soundly(name, tmp_path):
    before, words = FOLDERS[name]
    line = f"{forks().in_bash}{before or 'true'}; python -m gmu_lightning.train {' '.join(RUN)} {words}"
    ended = in_bash(line, tmp_path, shell.environment(tmp_path / "store"))
    assert ended.sound(), ended


@pytest.mark.heavy
@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no shared memory")  # noqa: PTH112
def test_many_loaders_end_soundly(tmp_path):
    ended = in_shell("", "data.workers=8", tmp_path, tmp_path / "store", {})
    assert ended.sound(), ended


@pytest.mark.heavy
@pytest.mark.parametrize("value", VALUES)
def test_odd_values_end_soundly(value, tmp_path_factory):
    folder = tmp_path_factory.mktemp("here")
    done = shell.typed("train", *RUN, value, folder=folder, store=tmp_path_factory.getbasetemp() / "store")
    ended = Ended(done.returncode, done.stderr)
    assert ended.sound(), ended
