"""Checkpoints that the disk refuses."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gmu_lightning.callbacks.checkpoints import AtomicCheckpointIO

SAVE = """
import torch
from gmu_lightning.callbacks.checkpoints import AtomicCheckpointIO
try:
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(200_000)}, "last.ckpt")
except OSError as error:
    print(error)
"""


def limit_files() -> None:
    """Let this process write files of 100,000 bytes at most."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.skipif(os.name != "posix", reason="no limit on files")
def test_a_refused_checkpoint_leaves_the_previous_one(tmp_path):
    AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(3)}, tmp_path / "last.ckpt")
    root = Path(__file__).parents[2]
    # Python would leave a part of a file of bytecode behind that it may not write whole.
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SAVE], cwd=tmp_path, env=environment, preexec_fn=limit_files,
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "[Errno 27] File too large: 'last.ckpt'\n"
    assert torch.load(tmp_path / "last.ckpt")["weights"].tolist() == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_ctrl_c_in_a_checkpoint_is_an_interruption(tmp_path, monkeypatch):
    AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(3)}, tmp_path / "last.ckpt")
    before = (tmp_path / "last.ckpt").read_bytes()

    def interrupted(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("unexpected pos 252864 vs 252756")  # as torch ends the file

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(3)}, tmp_path / "last.ckpt")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
