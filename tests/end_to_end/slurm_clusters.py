"""Clusters for the tests of the Slurm launcher: a stand-in of shell scripts, and a real Slurm on this machine's loopback device.

The real one needs Slurm's programs. They may be installed, or unpacked without root into a folder that SLURM_ROOT names:

    apt-get download slurmctld slurmd slurm-client slurm-wlm-basic-plugins libhwloc15
    for file in *.deb; do dpkg -x $file $SLURM_ROOT; done
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from .shell import PATIENCE

SCRIPTS = {
    "sbatch": r"""
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\)%.*/\1/p' "${@: -1}")
array=$(($(cat "$CLUSTER/arrays" 2>/dev/null || echo 6) + 1)); echo $array > "$CLUSTER/arrays"
for n in $(seq 0 "$last"); do
    touch "$CLUSTER/queued-${array}_$n"
    SLURM_ARRAY_JOB_ID=$array SLURM_ARRAY_TASK_ID=$n SLURM_ARRAY_TASK_COUNT=$((last + 1)) \
        setsid "$CLUSTER/bin/task" "${@: -1}" > /dev/null 2>&1 < /dev/null &
done
echo $array
""",
    "task": r"""
name=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
export SLURM_RESTART_COUNT=0
while bash "$1"; [ -f "$CLUSTER/requeued-$name" ]; do
    rm "$CLUSTER/requeued-$name"
    SLURM_RESTART_COUNT=$((SLURM_RESTART_COUNT + 1))
done
rm "$CLUSTER/queued-$name"
""",
    "srun": r"""
while [[ $1 == --* ]]; do
    case $1 in --output | --error) shift 2 ;; *) shift ;; esac
done
name=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
echo $$ > "$CLUSTER/pid-$name"
exec "$@" >> "$CLUSTER/out-$name" 2>> "$CLUSTER/err-$name"
""",
    "scontrol": r"""
case $1 in requeue) touch "$CLUSTER/requeued-$2" ;; show) echo JobState=RUNNING ;; esac
""",
}
CONF = """
ClusterName=loop
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
PluginDir={plugins}
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
KillWait=10
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def until(happened: Callable[[], bool]) -> None:
    """Wait for something, and fail if it does not happen."""
    for _ in range(PATIENCE * 10):
        if happened():
            return
        time.sleep(0.1)
    pytest.fail("the awaited event did not happen")


class StandIn:
    """Scripts that run the tasks of an array as processes of this machine.

    Args:
        folder: for the scripts and their notes.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        for name, script in SCRIPTS.items():
            path = folder / "bin" / name
            path.write_text(f"#!/bin/bash\n{script}")
            path.chmod(0o755)
        self.variables = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "CLUSTER": str(folder)}

    def preempt(self) -> None:
        """Take the place of the first worker of the first array."""
        os.kill(int((self.folder / "pid-7_0").read_text()), signal.SIGUSR2)

    def wait(self) -> None:
        """Wait until the queue is empty."""
        until(lambda: not any(self.folder.glob("queued-*")))

    def logs(self, sweep: Path) -> str:
        """Return the output of all workers."""
        return "".join(path.read_text() for path in (*self.folder.glob("out-*"), *self.folder.glob("err-*")))

    def end(self) -> None:
        """End what still runs."""
        for path in self.folder.glob("queued-*"):
            pid = self.folder / path.name.replace("queued", "pid")
            if pid.exists():
                os.kill(int(pid.read_text()), signal.SIGKILL)


class Real:
    """A real Slurm: one node of two cores, a partition for workers, and one that takes their places.

    Args:
        folder: for its files, with a short path.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        host = socket.gethostname().partition(".")[0]
        nodes = f"NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN"
        programs, self.variables = installed(folder, f"{host}(127.0.0.1)", nodes, [_free_port() for _ in range(2)])
        controller, node, step = programs
        self.daemons = [self._started([controller, "-D"])]
        until(lambda: "low" in self.asked("sinfo", "-h"))
        self.daemons.append(self._started([node, "-D", "-d", step]))
        until(lambda: "idle" in self.asked("sinfo", "-h"))

    def _started(self, words: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "daemons.log").open("ab") as log:
            return subprocess.Popen(words, env={**os.environ, **self.variables}, stdout=log, stderr=log)

    def asked(self, *words: str) -> str:
        """Return the output of one of Slurm's commands."""
        return subprocess.run(
            words, env={**os.environ, **self.variables}, capture_output=True, text=True, check=False, timeout=PATIENCE
        ).stdout

    def preempt(self) -> None:
        """Let a job of the other partition take the whole node for a second."""
        self.asked("sbatch", "--partition=high", "--cpus-per-task=2", f"--output={self.folder}/high.log", "--wrap=sleep 1")
        until(lambda: "high" not in self.asked("squeue", "-h", "-o", "%P"))

    def wait(self) -> None:
        """Wait until the queue is empty."""
        until(lambda: not self.asked("squeue", "-h"))

    def logs(self, sweep: Path) -> str:
        """Return the output of all workers."""
        return "".join(path.read_text() for path in (sweep / "slurm").glob("*_log.*"))

    def end(self) -> None:
        """End every job and the daemons."""
        self.asked("scancel", "--user=root", "--signal=KILL", "--full")
        for daemon in self.daemons:
            daemon.terminate()
            daemon.wait()


def installed(folder: Path, host: str, nodes: str, ports: Sequence[int]) -> tuple[list[str], dict[str, str]]:
    """Write slurm.conf, and return the programs slurmctld, slurmd and slurmstepd, and the variables that they need.

    Args:
        folder: for the files of Slurm, with a short path.
        host: of slurmctld.
        nodes: lines on the nodes.
        ports: of slurmctld and slurmd.
    """
    root = Path(os.environ.get("SLURM_ROOT", "/"))
    path = f"{root}/usr/sbin:{root}/usr/bin:{root}/sbin:{os.environ['PATH']}"
    programs = [found for name in ("slurmctld", "slurmd", "slurmstepd") if (found := _program(name, path))]
    if len(programs) < 3 or os.geteuid() != 0:
        pytest.skip("no Slurm, or no root")
    library = next(root.glob("usr/lib/*/slurm-wlm"))
    (folder / "state").mkdir(parents=True)
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, nodes=nodes, ports=ports, folder=folder, plugins=library))
    places = f"{library}:{library.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    return programs, {"PATH": path, "SLURM_CONF": str(conf), "LD_LIBRARY_PATH": places}


def _program(name: str, path: str) -> str | None:
    return shutil.which(name, path=path) or shutil.which(f"{name}-wlm", path=path)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
