"""hydra/launcher=ray on a real cluster of two nodes, which share this machine and its loopback device."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from .shell import command, environment
from .test_sweeps import read_json, read_rows, wait_for

pytestmark = [pytest.mark.heavy, pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")]
FROZEN = (
    *("data=planted", "data.movies=120", "data.modalities=video+audio", "modalities=video+audio", "fusion.dim=16"),
    *("trainer.max_epochs=1", "trainer.threads=1"),
)
TROUBLE = """
import os, signal, sys, time
from pathlib import Path
import pytorch_lightning as pl

class Trouble(pl.Callback):
    def __init__(self, note):
        self.note = Path(note)

    def on_train_start(self, trainer, model):
        seed = model.about["config"]["seed"]
        if seed == 1:
            raise RuntimeError("its own error")
        if seed == 2:
            sys.exit(3)
        if seed in (3, 4):
            os.kill(os.getpid(), signal.SIGKILL if seed == 3 else signal.SIGSEGV)
        if os.environ.get("NODE") == "second" and not self.note.exists():
            self.note.write_text(str(seed))
            time.sleep(600)
"""


class TwoNodes(NamedTuple):
    """A cluster: its address, the processes `ray start --block` of its nodes, and the variables that it was started with."""

    address: str
    first: subprocess.Popen[bytes]
    second: subprocess.Popen[bytes]
    variables: dict[str, str]


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    (folder / "trouble.py").write_text(TROUBLE)
    return folder


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[TwoNodes]:
    scratch = Path(tempfile.mkdtemp(prefix="gmu", dir="/tmp"))  # a short path, for the sockets
    (scratch / "token").write_text(secrets.token_hex(32))
    variables = {
        **{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(scratch / "token"), "RAY_USAGE_STATS_ENABLED": "0"},
        "PYTHONPATH": os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")]),
    }
    address = f"127.0.0.1:{_free_port()}"

    def start(name: str, *words: str) -> subprocess.Popen[bytes]:
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", f"--node-name={name}", *words]
        given = environment(home / "store", **variables, NODE=name)
        memory, said = "--object-store-memory=80000000", scratch / name
        with said.open("wb") as file:
            node = subprocess.Popen([*ray, memory], env=given, cwd=home, stdout=file, start_new_session=True)
        wait_for(lambda: "Ray runtime started." in said.read_text(), node)
        return node

    own = "--node-ip-address=127.0.0.1"
    port = f"--port={address.rpartition(':')[2]}"
    first = start("first", "--head", port, "--include-dashboard=false", f"--temp-dir={scratch}", own)
    second = start("second", f"--address={address}", own)
    yield TwoNodes(address, first, second, variables)
    for node in (second, first):
        lose(node)
    shutil.rmtree(scratch, ignore_errors=True)


def lose(node: subprocess.Popen[bytes]) -> None:
    """Kill all processes of a node at once, as a machine that loses its power does."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[3]) == node.pid:  # its session
            os.kill(int(path.parent.name), signal.SIGKILL)
    node.wait()


def sweep(home: Path, name: str, *words: str, **variables: str) -> subprocess.Popen[str]:
    given = (*FROZEN, f"hydra.sweep.dir={name}", *words)
    variables.setdefault("PYTHONPATH", os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        command("train", "-m", *given),
        cwd=home,
        env=environment(home / "store", **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def board(folder: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in read_rows(folder / "leaderboard.csv")]


def test_jobs_survive_their_neighbours_and_their_machines(home, cluster):
    jobs = ("seed=1,2,3,4,5,6,7,8", "+callbacks.trouble._target_=trouble.Trouble")
    on = ("hydra/launcher=ray", f"hydra.launcher.address={cluster.address}")
    note = home / "note"
    sent = sweep(home, "ray", *jobs, f"+callbacks.trouble.note={note}", *on, **cluster.variables)
    wait_for(note.exists, sent)
    lose(cluster.second)
    out, err = sent.communicate(timeout=300)
    print(out, err)
    status = read_json(home / "ray" / "status.json")
    failed = {
        next(word for word in job["overrides"] if "seed" in word): job["why"]
        for job in status["jobs"]
        if job["state"] == "failed"
    }
    assert sent.returncode == 1
    assert (status["finished"], status["failed"]) == (4, 4)
    assert failed == {
        "seed=1": "RuntimeError: its own error",
        "seed=2": "SystemExit: 3",
        "seed=3": "its process was ended by SIGKILL, perhaps for want of memory",
        "seed=4": "its process was ended by SIGSEGV",
    }
    lost = [line for line in err.splitlines() if "lost with its worker" in line]
    assert len(lost) == 1 and f"seed{note.read_text()}" in lost[0] and "node second" in lost[0]
    alone = sweep(home, "stacked", *jobs, f"+callbacks.trouble.note={note}", "hydra/launcher=stacked")
    alone.communicate(timeout=300)
    assert board(home / "ray") == board(home / "stacked")
