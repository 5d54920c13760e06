"""Commands look up no host name and open no connection, except for W&B online and for weights from a hub.

An audit hook in every Python process notes look-ups and connections. strace, if it is installed and allowed, does the same for
other programs, such as wandb's service.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from .shell import SMOKE, command, environment

SPY = Path(__file__).parent / "spy"
LOOPBACK = ("localhost", "127.0.0.1", "::ffff:127.0.0.1", "::1", "", None)
CONNECTED = re.compile(r"^(\d+) +connect\((\d+), .*sa_family=AF_INET6?.*?(?:inet_addr\(|inet_pton\(AF_INET6, )\"([^\"]+)\"")
OWN_NAME = re.compile(r"^(\d+) +send\w+\((\d+), .*\\003127\\7in-addr")  # a look-up of the name of 127.0.0.1
TEXT = ("encoder/text=minilm", "modalities=text", "fusion=none", "data=planted", "data.movies=60", "trainer.max_epochs=1")
PACKAGES = {"openvino": ["openvino"], "tensorboard": ["tensorboard"], "ray": ["ray"]}


class Spied(NamedTuple):
    """How a command ended, and the hosts that it tried to reach."""

    code: int
    err: str
    outside: list[str]
    loopback: list[str]


def _can_trace() -> bool:
    strace = shutil.which("strace")
    return strace is not None and subprocess.run([strace, "-o", os.devnull, "true"], check=False).returncode == 0


def _reached(trace: list[str]) -> list[str]:
    """Return the address of every connection in a trace; a look-up of the name of 127.0.0.1 counts as a connection to it."""
    found: list[str] = []
    last: dict[tuple[str, str], int] = {}  # (process, socket) -> its last connection
    for line in trace:
        if match := CONNECTED.match(line):
            last[match[1], match[2]] = len(found)
            found.append(match[3])
        elif (match := OWN_NAME.match(line)) and (match[1], match[2]) in last:
            found[last[match[1], match[2]]] = "127.0.0.1"
    return found


def spied(words: list[str], folder: Path, store: Path, **variables: str) -> Spied:
    """Run a command line under the spy, in `folder` and with a home folder of its own."""
    noted, traced, home = folder / "spy.jsonl", folder / "spy.strace", folder / "home"
    home.mkdir(exist_ok=True)
    for file in (noted, traced):
        file.unlink(missing_ok=True)
    path = os.pathsep.join([str(SPY), os.environ.get("PYTHONPATH", "")])
    trace = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(traced)]
    done = subprocess.run(
        [*(trace if _can_trace() else []), *words],
        cwd=folder,
        env=environment(store, PYTHONPATH=path, GMU_SPY=str(noted), HOME=str(home), **variables),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    lines = noted.read_text().splitlines() if noted.exists() else []
    found = [json.loads(line)["host"] for line in lines]
    if traced.exists():
        found += _reached(traced.read_text(errors="replace").splitlines())
    outside = [str(host) for host in found if host not in LOOPBACK]
    return Spied(done.returncode, done.stderr, outside, [str(host) for host in found if host in LOOPBACK])


@pytest.mark.parametrize("how", ["look up", "connect", "child"])
def test_the_spy_sees_an_attempt(how, tmp_path):
    look_up = "import socket; socket.getaddrinfo('host.invalid', 9)"
    attempt = {
        "look up": look_up,
        "connect": "import socket; s = socket.socket(); s.settimeout(0.1); s.connect(('192.0.2.1', 9))",
        "child": f'import subprocess, sys; subprocess.run([sys.executable, "-c", "{look_up}"])',
    }
    seen = spied([sys.executable, "-c", attempt[how]], tmp_path, tmp_path / "store")
    assert {"look up": "host.invalid", "connect": "192.0.2.1", "child": "host.invalid"}[how] in seen.outside


def test_a_run_reaches_nobody(tmp_path, store):
    seen = spied(command("train", *SMOKE, "hydra.run.dir=run"), tmp_path, store)
    assert seen.code == 0, seen.err
    assert seen.outside == seen.loopback == []
    assert not [path for path in tmp_path.rglob("*.log") if "wandb" not in path.parts]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, store) -> Path:
    """A folder with a run and a sweep."""
    folder = tmp_path_factory.mktemp("finished")
    for words in (["hydra.run.dir=run"], ["-m", "seed=1,2", "fusion=mean,concat", "hydra.sweep.dir=sweep"]):
        seen = spied(command("train", *words, *SMOKE), folder, store)
        assert seen.code == 0, seen.err
    return folder


SWEEP = ["train", "-m", *SMOKE, "seed=1,2", "hydra.sweep.dir=sweep"]
CASES: dict[str, list[str]] = {
    "sweep": SWEEP,
    "sweep, processes": [*SWEEP, "hydra/launcher=processes"],
    "sweep, stacked": [*SWEEP, "hydra/launcher=stacked"],
    "sweep, stacks": [
        *("train", "-m", "data=planted", "data.movies=60", "data.modalities=video+audio", "modalities=video+audio"),
        *("fusion.dim=16", "trainer.max_epochs=1", "seed=1,2", "hydra/launcher=stacked", "hydra.launcher.how=stacks"),
    ],
    "sweep, ray": [*SWEEP, "hydra/launcher=ray", "hydra.launcher.address=local"],
    "sweep, search": [*SWEEP, "sweep=search", "hydra.sweeper.trials=2"],
    "two devices": [
        *("train", *SMOKE, "trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=8"),
        "hydra.run.dir=run",
    ],
    "prepare": ["prepare", "experiment=smoke"],
    "prepare, raw": ["prepare", "data.root={raw}", "encoder/image=tiny"],
    "evaluate": ["evaluate", "run={finished}/run", "robustness=true", "threshold=val"],
    "predict": ["predict", "run={finished}/run", "input={raw}/dataset", "output=predictions.csv"],
    "export": ["export", "run={finished}/run", "output=model"],
    "adopt": ["adopt", "predictions={finished}/run/predictions", "name=x", "data=planted", "data.movies=60", "hydra.run.dir=run"],
    "compare": ["compare", "runs={finished}/sweep", "output=compared"],
    "dashboard": ["dashboard", "runs={finished}/sweep", "mode=offline", "output=board"],
    "info": ["info"],
    "doctor": ["doctor"],
    "wandb, offline": ["train", *SMOKE, "logger=wandb", "logger.wandb.mode=offline", "hydra.run.dir=run"],
    "wandb, disabled": ["train", *SMOKE, "logger=wandb", "logger.wandb.mode=disabled", "hydra.run.dir=run"],
    "wandb, offline sweep": [*SWEEP, "logger=wandb", "logger.wandb.mode=offline", "hydra/launcher=stacked"],
    "tensorboard": ["train", *SMOKE, "logger=tensorboard", "hydra.run.dir=run"],
    "pretrained, torch": ["train", *TEXT, "encode.backend=torch", "hydra.run.dir=run"],
    "pretrained, openvino": ["train", *TEXT, "encode.backend=openvino", "hydra.run.dir=run"],
}


def _installed(case: str) -> bool:
    packages = PACKAGES.get(case.rpartition(", ")[2], [])
    return all(importlib.util.find_spec(package) for package in packages)


@pytest.mark.heavy
@pytest.mark.parametrize("case", [case for case in CASES if _installed(case)])
def test_no_command_reaches_anybody(case, tmp_path, raw, finished, store, record_property: Callable[[str, object], None]):
    name, *words = (word.format(raw=raw, finished=finished) for word in CASES[case])
    seen = spied(command(name, *words), tmp_path, tmp_path / "store" if "pretrained" in case else store)
    record_property("loopback", seen.loopback)
    print(f"{case}: {len(seen.outside)} outside, {len(seen.loopback)} on loopback")
    assert seen.code == 0, seen.err
    assert seen.outside == []
    assert seen.loopback == [] or case in ("two devices", "sweep, ray")
    assert not [name for name in ("intel", ".cache/Microsoft") if (tmp_path / "home" / name).exists()]
    assert not [path for path in tmp_path.rglob("*.log") if not {"wandb", "search"} & set(path.parts)]
