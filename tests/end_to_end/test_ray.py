"""hydra/launcher=ray on a real cluster of two nodes, which share this machine and its loopback device."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .machines import on_two_machines
from .shell import PATIENCE, command, environment, last_line, typed
from .slurm_clusters import installed
from .test_sweeps import interrupt, read_json, read_rows, started, wait_for
from .test_trailers import write as write_trailers

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
    def __init__(self, note, pause=600):
        self.note, self.pause = Path(note), pause

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
            time.sleep(self.pause)
"""


class TwoNodes(NamedTuple):
    """A cluster: its address, the processes `ray start --block` of its nodes, and the variables that it was started with."""

    address: str
    first: subprocess.Popen[bytes]
    second: subprocess.Popen[bytes]
    variables: dict[str, str]

    @property
    def words(self) -> tuple[str, str]:
        return "hydra/launcher=ray", f"hydra.launcher.address={self.address}"


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


@contextmanager
def two_nodes(home: Path) -> Iterator[TwoNodes]:
    """Start a cluster of the nodes `first` and `second`, and end it."""
    scratch = Path(tempfile.mkdtemp(prefix="gmu", dir="/tmp"))  # a short path, for the sockets
    (scratch / "token").write_text(secrets.token_hex(32))
    (scratch / "ray_bootstrap_config.yaml").write_text("{}")  # otherwise Ray asks the network for its cloud
    variables = {
        **{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(scratch / "token"), "RAY_USAGE_STATS_ENABLED": "0"},
        "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:1",
        "PYTHONPATH": os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")]),
    }
    address = f"127.0.0.1:{_free_port()}"

    def start(name: str, *words: str) -> subprocess.Popen[bytes]:
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", f"--node-name={name}", *words]
        given = environment(home / "store", **variables, NODE=name, HOME=str(scratch))
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


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[TwoNodes]:
    with two_nodes(home) as made:
        yield made


def session(leader: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, of, *_ = path.read_text().rpartition(")")[2].split()
            found += [int(path.parent.name)] if int(of) == leader and state != "Z" else []
    return found


def lose(node: subprocess.Popen[bytes]) -> None:
    """Kill all processes of a node at once, as a machine does that loses its power."""
    for pid in session(node.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
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


def test_check_prints_the_plan_of_any_launcher_and_joins_no_cluster(home):
    plans = [
        typed("train", "-m", *FROZEN, "seed=1,2,3", f"hydra/launcher={name}", "check=true", folder=home, store=home / "store")
        for name in ("ray", "stacked")
    ]
    assert plans[0].returncode == 0, plans[0].stderr
    assert plans[0].stdout == plans[1].stdout
    assert "3 of 3 jobs would run" in plans[0].stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("hydra.launcher.gpus=1",),
            "no node of the cluster at {address} has room for a worker of 1 CPU and 1 GPU: ask for less (first: 1 CPUs, 0 GPUs; "
            "second: 1 CPUs, 0 GPUs)",
        ),
        (
            ("hydra.launcher.workers=3",),
            "hydra.launcher.workers=3 is not possible: the cluster at {address} has room for 2 of 1 CPU",
        ),
    ],
)
def test_a_request_that_no_node_can_meet_ends_at_once(home, cluster, words, sentence):
    sent = sweep(home, "refused", "seed=1,2", *cluster.words, *words, **cluster.variables)
    _, err = sent.communicate(timeout=PATIENCE)
    assert sent.returncode == 1
    assert last_line(err) == sentence.format(address=cluster.address)


def test_a_stranger_without_the_token_is_refused(home, cluster, tmp_path):
    (tmp_path / "token").write_text("0" * 64)
    other = {**cluster.variables, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    sent = sweep(home, "refused", "seed=1,2", *cluster.words, **other)
    _, err = sent.communicate(timeout=PATIENCE)
    assert sent.returncode == 1
    assert last_line(err).startswith(f"the Ray cluster at {cluster.address} ")


@pytest.mark.parametrize("what", ["posters", "trailers"])
def test_a_cluster_prepares_the_same_columns(home, cluster, raw, tmp_path, what):
    if what == "posters":
        words = (f"data.root={raw}", "modalities=text+image", "encoder/text=tiny", "encoder/image=tiny")
    else:
        root = write_trailers(tmp_path / "clips", (6, 2, 2))
        (root / "trailers" / "0.mp4").write_bytes(b"no trailer")
        words = ("data=moviescope", "data.audio=trailers", f"data.root={root}", "modalities=audio", "encoder/audio=trailer_mel96")
    spread, alone = tmp_path / "spread", tmp_path / "alone"
    given = environment(spread, **cluster.variables)
    asked = [*command("prepare", *words), *cluster.words, f"hydra.run.dir={tmp_path / 'ray'}"]
    done = subprocess.run(asked, cwd=home, env=given, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert "could not be prepared" not in done.stderr
    assert re.search(r"preparing \d+ files in 2 workers: \d+ movies", done.stderr)
    assert typed("prepare", *words, f"hydra.run.dir={tmp_path / 'local'}", folder=home, store=alone).returncode == 0
    assert contents(spread / "columns") == contents(alone / "columns")
    assert contents(spread / "parts").keys() == contents(alone / "parts").keys()  # posters leave none
    assert read_json(tmp_path / "ray" / "audit.json") == read_json(tmp_path / "local" / "audit.json")


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of each file, without locks and empty files."""
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
    return {str(path.relative_to(folder)): content for path, content in files.items()}


def test_ctrl_c_ends_the_cluster_of_this_machine(home, tmp_path):
    folder = tmp_path / "cut"
    words = (*FROZEN, "trainer.max_epochs=1000000", "seed=1,2,3", "hydra/launcher=ray", "hydra.launcher.address=local")

    def two_train() -> bool:
        return sum(path.stat().st_size > 0 for path in folder.glob("*/history.csv")) == 2

    with started(tmp_path, home, "-m", *words, "hydra.launcher.workers=2", "hydra.sweep.dir=cut") as process:
        wait_for(two_train, process)
        own = [pid for pid in session(process.pid) if pid != process.pid]
        interrupt(process)
    jobs = read_json(folder / "status.json")["jobs"]
    assert [job["state"] for job in jobs] == ["interrupted"] * 2
    assert own
    assert not session(process.pid)


def test_a_job_of_two_devices_takes_a_node(home, cluster):
    words = ("seed=1", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.strategy=ddp")
    sent = sweep(home, "two", *words, *cluster.words, **cluster.variables)
    _, err = sent.communicate(timeout=PATIENCE)
    assert sent.returncode == 0, err
    assert "ray: 1 job in 1 worker of one thread" in err
    assert read_json(home / "two" / "status.json")["finished"] == 1


def test_jobs_survive_their_neighbours_and_their_machines(home, cluster):
    jobs = ("seed=1,2,3,4,5,6,7,8", "+callbacks.trouble._target_=trouble.Trouble")
    note = home / "note"
    sent = sweep(home, "ray", *jobs, f"+callbacks.trouble.note={note}", *cluster.words, **cluster.variables)
    wait_for(note.exists, sent)
    lose(cluster.second)
    _, err = sent.communicate(timeout=PATIENCE)
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
    alone.communicate(timeout=PATIENCE)
    assert board(home / "ray") == board(home / "stacked")


def test_the_loss_of_the_first_node_ends_in_a_sentence_and_the_same_command_does_the_rest(home):
    note = home / "second at work"
    trouble = ("trouble._target_=trouble.Trouble", f"trouble.note={note}", "trouble.pause=30")
    jobs = ("seed=5,6,7,8", *(f"+callbacks.{word}" for word in trouble))
    with two_nodes(home) as made:
        sent = sweep(home, "headless", *jobs, *made.words, **made.variables)
        folder = home / "headless"
        wait_for(lambda: note.exists() and bool(finished(folder)), sent)
        before = finished(folder)
        lose(made.first)
        _, err = sent.communicate(timeout=PATIENCE)
    assert sent.returncode == 1
    assert last_line(err).startswith(f"the first node of the cluster at {made.address} is lost, and "), err
    assert "Traceback" not in err
    assert read_json(folder / "status.json")["interrupted"] > 0
    again = sweep(home, "headless", *jobs, "hydra/launcher=ray", "hydra.launcher.address=local")
    _, err = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, err
    assert read_json(folder / "status.json")["finished"] == 4
    assert before.items() <= finished(folder).items()  # each finished job ran once


def finished(sweep: Path) -> dict[str, Any]:
    """Return the status of each finished run of a sweep."""
    found = {path.parent.name: read_json(path) for path in sweep.glob("*/status.json")}
    return {name: status for name, status in found.items() if status["state"] == "finished"}


def test_symmetric_run_does_a_sweep_and_ends_with_its_exit_code(tmp_path):
    train = f"python -m gmu_lightning.train -m hydra/launcher=ray {' '.join(FROZEN)} store.dir=store hydra.sweep.dir"
    run = f"ray symmetric-run --address one:6379 --num-cpus=1 -- {train}=done"
    done = on_two_machines(tmp_path, f"{run} seed=1 && {run} seed=1,2 fusion.dim=0", RAY_AUTH_MODE="token")
    assert done.returncode == 1, done.stderr
    assert "done: 1 finished, 0 failed, 0 skipped" in done.stdout
    assert read_json(tmp_path / "done/status.json")["finished"] == 1


def test_the_file_for_sbatch_does_a_sweep_on_two_machines(tmp_path):
    """The file is the one of the page, for two machines and other data."""
    page = (Path(__file__).parents[2] / "docs/howto/many_machines.md").read_text(encoding="utf-8")
    script = page.partition("# needs Slurm\n")[2].partition("```")[0]
    for old, new in (("--nodes=4", "--nodes=2"), ("data.root=PATH", " ".join(FROZEN)), ("/shared/", f"{tmp_path}/")):
        assert old in script
        script = script.replace(old, new)
    (tmp_path / "job.sh").write_text(script)
    lines = [f"NodeName={name} NodeAddr={name} CPUs=1 RealMemory=1000 State=UNKNOWN" for name in ("one", "two")]
    (controller, node, step), variables = installed(tmp_path / "slurm", "one", "\n".join(lines), (6817, 6818))
    slurmd = f"{node} -D -d {step}"
    submit = "sbatch --wait --output=job.log job.sh"
    first = f'{controller} -D & {slurmd} & until [ "$(sinfo -h -t idle -o %D)" = 2 ]; do sleep 0.3; done; {submit}'
    done = on_two_machines(tmp_path, first, slurmd, **variables, RAY_gcs_rpc_server_reconnect_timeout_s="30")  # not 60
    said = (tmp_path / "job.log").read_text()
    assert done.returncode == 0, said[:9000]
    assert "on 2 nodes of the cluster at auto" in said
    assert read_json(tmp_path / "sweeps/first/status.json")["finished"] == 6
