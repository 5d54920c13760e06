"""Two machines in namespaces of this one: each has its own name, address, processes and folder of Ray. They share the disk.

`ray symmetric-run` needs such machines, since it ends every process of Ray that it sees.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .shell import PATIENCE, environment

NAMES = ("one", "two")
HOSTS = "127.0.0.1 localhost\n10.77.0.1 one\n10.77.0.2 two\n"
ISOLATED = "unshare --net --uts --pid --mount --fork --mount-proc --kill-child"
# A machine: its name, folder and script are the arguments.
MACHINE = """
hostname "$1"
mkdir -p /tmp/ray "$2/$1"
mount --bind "$2/$1" /tmp/ray
mount --bind "$2/hosts" /etc/hosts
ip link set lo up
until ip link show wire > /dev/null 2>&1; do sleep 0.1; done
ip address add "$(awk -v name="$1" '$2 == name { print $1 }' "$2/hosts")/24" dev wire
ip link set wire up
eval "$3"
exit $?
"""
# Both machines, joined by a wire, until `one` ends. The arguments: their folder, the script of a machine, and that of each.
BOTH = f"""
ip link add wire1 type veth peer name wire2
join() {{
    until [ "$(readlink /proc/$2/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
    ip link set "$1" netns "$2" name wire
}}
{ISOLATED} bash -c "$2" machine two "$1" "$4" &
join wire2 $!
{ISOLATED} bash -c "$2" machine one "$1" "$3" &
join wire1 $!
wait $!
"""


def on_two_machines(
    folder: Path, first: str, second: str = "sleep infinity", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script of the shell on each of two machines, and return the end of the first.

    The machines know a token of Ray, and reach no network but each other. Without root or namespaces the test is skipped.

    Args:
        folder: for their files; also their home.
        first, second: the scripts. The machine `two` ends with the script of `one`.
        variables: of the environment.
    """
    probe = [*ISOLATED.split(), "ip", "link", "show", "lo"]
    if not (shutil.which("unshare") and shutil.which("ip")) or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no namespaces of Linux, or no root")
    (folder / "hosts").write_text(HOSTS)
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text(os.urandom(32).hex())
    (folder / "ray_bootstrap_config.yaml").write_text("{}")  # otherwise Ray asks the network for its cloud
    path = f"{Path(sys.executable).parent}{os.pathsep}{variables.pop('PATH', os.environ['PATH'])}"
    given = environment(None, **variables, PATH=path, HOME=str(folder), RAY_USAGE_STATS_REPORT_URL="http://127.0.0.1:1")
    return subprocess.run(
        [*ISOLATED.split(), "bash", "-c", BOTH, "both", str(folder), MACHINE, first, second],
        cwd=folder,
        env=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
