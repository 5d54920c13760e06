"""Join a Ray cluster or start one on this machine, and look at every node before work.

Ray leaves some of its doors open by default. Here token authentication is on, the dashboard and usage statistics are off, and a
cluster on this machine listens on its loopback device alone.
"""

from __future__ import annotations

import atexit
import logging
import os
import platform
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from packaging.version import Version

from gmu_lightning import __version__
from gmu_lightning.files import digest
from gmu_lightning.movie import UserError
from gmu_lightning.sweep.job import Job
from gmu_lightning.visible import first_line

logger = logging.getLogger(__name__)
LEAST = "2.54"  # the dashboard of earlier versions has a known hole, and the first of them know no tokens
MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
PATIENCE = 60.0  # seconds; the limit for a node's answer
LATE = 10.0  # seconds; the limit for a new file to appear on a shared disk
LOOK = 5.0  # seconds between two looks at the first node
SILENT = 20.0  # seconds without an answer after which the first node is lost
KILL = "RAY_gcs_rpc_server_reconnect_timeout_s"  # how long Ray lets this process live without the first node
OBJECTS = 80 << 20  # bytes of Ray's object store, about its least size: jobs and their ends are small
SHARED = "the sweep, data.root and store.dir have to lie on a disk that all nodes share, under the same path on each"


class Sight(NamedTuple):
    """Findings of a process on its machine.

    Attributes:
        versions: {package: version}, of Python too.
        files: {path: state}, as `state_of` returns it.
        mode: value of RAY_AUTH_MODE.
    """

    versions: Mapping[str, str]
    files: Mapping[str, str | None]
    mode: str | None


class Node(NamedTuple):
    """A node that is alive: its name for messages, Ray's name, and the CPUs and GPUs that it lends."""

    name: str
    id: str
    cpus: float
    gpus: float

    def room(self, cpus: float, gpus: float) -> int:
        """Return how many workers of this size fit on the idle node."""
        return int(min(self.cpus // cpus, self.gpus // gpus if gpus else float("inf")))


def require_ray() -> None:
    """Raise UserError unless Ray is installed in a version that can be used."""
    try:
        found = metadata.version("ray")
    except metadata.PackageNotFoundError:
        raise UserError("hydra/launcher=ray needs the package ray: pip install 'gmu-lightning[ray]'") from None
    if Version(found) < Version(LEAST):
        raise UserError(f"hydra/launcher=ray needs ray {LEAST} or newer, and {found} is installed: pip install --upgrade ray")


def state_of(path: str, content: bool = False) -> str | None:
    """Return a hash of the names in a folder, or the size or `content` of a file. None if the path is absent."""
    try:
        if os.path.isdir(path):  # noqa: PTH112  # a Path costs more than the look
            return digest(sorted(name for name in os.listdir(path) if not name.startswith(".")))  # noqa: PTH208
        return Path(path).read_text() if content else f"{Path(path).stat().st_size} bytes"
    except OSError:
        return None


def sight(data: Sequence[str], probes: Mapping[str, str]) -> Sight:
    """Look at the machine of this process.

    Args:
        data: files and folders of data.
        probes: {file: content} that has to be seen. A file that is missing is looked for again for some seconds, since a network
            shows new files late.
    """
    files = {path: state_of(path) for path in data}
    until = time.monotonic() + LATE
    for path, text in probes.items():
        while (found := state_of(path, content=True)) != text and time.monotonic() < until:
            time.sleep(0.5)
        files[path] = found
    versions = {"Python": platform.python_version(), "gmu_lightning": __version__, "torch": metadata.version("torch")}
    return Sight(versions, files, os.environ.get(MODE))


def difference(node: str, here: Sight, there: Sight, probes: Mapping[str, str]) -> str | None:
    """Return the sentence on the first difference between a node and this machine; None if there is none.

    Args:
        node: name of the node.
        here, there: of this machine and of the node.
        probes: {file: content} of the files that the node has to see.
    """
    for package, version in here.versions.items():
        found = there.versions.get(package)
        if found != version:
            return f"node {node} has {package} {found}, and this machine has {version}: install the same version on every node"
    for path, ours in here.files.items():
        theirs = there.files.get(path)
        if theirs == ours:
            continue
        if path in probes:
            return f"node {node} does not see the files of {Path(path).parent} on this machine: {SHARED}"
        return f"node {node} finds {'nothing' if theirs is None else 'other files'} in {path}: {SHARED}"
    if here.mode == "token" and there.mode != "token":
        return (
            f"node {node} takes work from anyone who reaches it: create a token by `ray get-auth-token --generate` and start the "
            f"cluster with {MODE}=token, or set {MODE}=disabled here if nobody else can reach its network"
        )
    return None


@contextmanager
def probed(folders: Iterable[str]) -> Iterator[dict[str, str]]:
    """Write a file into each folder, and yield {file: content}. The files are removed in the end.

    A folder that does not exist yet stands for the nearest one above it that does.
    """
    probes: dict[str, str] = {}
    try:
        for folder in {str(_existing(Path(folder))) for folder in folders}:
            path = Path(folder) / f".probe-{secrets.token_hex(8)}"
            probes[str(path)] = secrets.token_hex(16)
            path.write_text(probes[str(path)])
        yield probes
    finally:
        for path in map(Path, probes):
            path.unlink(missing_ok=True)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())


@dataclass
class Cluster:
    """A cluster that this process has joined.

    Attributes:
        address: as the user gave it.
        lost: whether its first node was lost. Then calls of Ray that need this node do not return.
    """

    address: str
    lost: bool = False
    _looked: float = field(default=-LOOK, repr=False)
    _silent: float | None = field(default=None, repr=False)

    @classmethod
    def joined(cls, address: str) -> Cluster:
        """Join the cluster at an address; `local` starts one, which ends with this process. A second call changes nothing.

        Raises:
            UserError: there is none, it cannot be reached, or it has another version of Ray or Python.
        """
        local = address == "local"
        if "ray" not in sys.modules:  # Ray reads the environment as it is imported
            _set_environment(local)
        import ray

        if ray.is_initialized():
            return cls(address)
        before, home = signal.getsignal(signal.SIGTERM), os.environ.get("HOME")
        options: dict[str, Any] = {"address": address, "log_to_driver": False, "configure_logging": False}
        if local:
            folder = Path(os.environ[TOKEN_PATH]).parent
            os.environ["HOME"] = str(_home(folder))
            options |= {
                "_temp_dir": str(folder),
                "_node_ip_address": "127.0.0.1",
                "include_dashboard": False,
                "object_store_memory": OBJECTS,
                "num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            }
        logging.getLogger("ray").setLevel(logging.ERROR)
        ray._private.worker.print_to_stdstream = _say_nothing  # it prints pages of a daemon's log when a node is lost
        try:
            ray.init(**options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise UserError(_refusal(address, error)) from error
        finally:
            signal.signal(signal.SIGTERM, before)  # Ray has set its own
            os.environ.pop("HOME", None)
            os.environ |= {"HOME": home} if home is not None else {}
        return cls(address)

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive and lend CPUs, sorted by name."""
        import ray

        found = []
        for node in ray.nodes():
            has = node["Resources"]
            if node["Alive"] and has.get("CPU", 0) > 0:
                host, address, own = node["NodeManagerHostname"], node["NodeManagerAddress"], node.get("NodeName")
                name = f"{host} ({address})" if own in (None, "", address) else str(own)
                found.append(Node(name, node["NodeID"], has["CPU"], has.get("GPU", 0)))
        return sorted(found)

    def is_lost(self) -> bool:
        """Return whether the first node is lost, which every cluster needs. It is looked at every few seconds."""
        import ray

        moment = time.monotonic()
        if not self.lost and moment - self._looked >= LOOK:
            self._looked = moment
            host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
            try:
                socket.create_connection((host, int(port)), timeout=LOOK).close()
                self._silent = None
            except OSError:
                self._silent = self._silent or moment
                self.lost = moment - self._silent >= SILENT
        return self.lost

    def check(self, folders: Sequence[str], data: Sequence[str]) -> None:
        """Compare every node with this machine.

        Args:
            folders: that work writes to; each node has to see them.
            data: files and folders that work reads, if they exist here.

        Raises:
            UserError: a node differs, or does not answer. The sentence names it.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        look = ray.remote(num_cpus=0, max_retries=0)(sight)
        with probed(folders) as probes:
            there = [path for path in data if state_of(path) is not None]
            here = sight(there, probes)
            asked = [
                (
                    node.name,
                    look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(there, probes),
                )
                for node in self.nodes()
            ]
            for name, answer in asked:
                try:
                    found = ray.get(answer, timeout=PATIENCE)
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None) or error
                    why = f"{type(cause).__name__}: {first_line(cause)}"
                    raise UserError(
                        f"node {name} could not be asked ({why}): install gmu_lightning there, or take it out of the cluster"
                    ) from error
                if sentence := difference(name, here, found, probes):
                    raise UserError(sentence)

    def largest(self, gpus: float) -> int:
        """Return the number of CPUs of a worker that takes a whole node; with GPUs, its part of the node."""
        nodes = [node for node in self.nodes() if node.room(1, gpus)]
        return max(1, min((int(node.cpus / max(1, node.gpus // gpus) if gpus else node.cpus) for node in nodes), default=1))

    def room(self, cpus: int, gpus: float, workers: int | None) -> int:
        """Return the number of workers of a size: `workers`, or as many as fit if it is None.

        Raises:
            UserError: no node is large enough for one, or all together are too small for `workers`.
        """
        nodes = self.nodes()
        if not nodes:
            raise UserError(f"no node of the cluster at {self.address} lends a CPU: start it with --num-cpus=1 or more on a node")
        room = sum(node.room(cpus, gpus) for node in nodes)
        size = f"{cpus} CPU{'' if cpus == 1 else 's'}" + (f" and {gpus:g} GPU{'' if gpus == 1 else 's'}" if gpus else "")
        if room == 0:
            most = "; ".join(dict.fromkeys(f"{node.name}: {node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in nodes))
            raise UserError(f"no node of the cluster at {self.address} has room for a worker of {size}: ask for less ({most})")
        if workers is not None and workers > room:
            raise UserError(
                f"hydra.launcher.workers={workers} is not possible: the cluster at {self.address} has room for {room} of {size}"
            )
        return workers or room


def _say_nothing(*_: Any, **options: Any) -> None:
    """Take a message of Ray's daemons."""


def folders_of(jobs: Sequence[Job], sweep: Path) -> tuple[list[str], list[str]]:
    """Return the folders that jobs write to, the current one included, and the places of their data."""
    folders = [str(sweep), str(Path.cwd()), *(job.config.store.dir for job in jobs)]
    data = [job.config.data.root for job in jobs if job.config.data.root is not None]
    return list(dict.fromkeys(folders)), list(dict.fromkeys(data))


def _set_environment(local: bool) -> None:
    """Set what Ray reads as it is imported. For a cluster of this machine, also make its folder with a token.

    Folder and token are private to the user. The path is short, since the paths of Ray's sockets have a limit of 107 bytes.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault(MODE, "token")
    if not local:
        os.environ[KILL] = "300"  # in place of 60, so that the sweep can end in order
        return
    folder = Path(tempfile.mkdtemp(prefix="gmu", dir="/tmp" if Path("/tmp").is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # runs after Ray's own, which is registered later
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ |= {MODE: "token", TOKEN_PATH: str(token)}
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # everything listens on the loopback device alone
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # the priority of other launchers, in place of a low one
    for name in (TOKEN, "RAY_ADDRESS"):
        os.environ.pop(name, None)


def _home(folder: Path) -> Path:
    """Return a home folder for Ray's daemons with a file about their cloud. Without it, they ask the network for one."""
    home = folder / "home"
    home.mkdir()
    (home / "ray_bootstrap_config.yaml").write_text("{}\n")
    return home


def _refusal(address: str, error: Exception) -> str:
    why = " ".join(first_line(error).split()).rstrip(".:")
    if address == "local":
        return f"Ray could not start on this machine ({why}): look at the memory and at /tmp, or choose hydra/launcher=stacked"
    with suppress(ImportError):
        from ray.exceptions import AuthenticationError

        if isinstance(error, AuthenticationError):
            return (
                f"the Ray cluster at {address} wants a token that this machine lacks: copy ~/.ray/auth_token from its first "
                f"node, or set {TOKEN_PATH}"
            )
    if "Could not find any running" in why:
        return (
            "no Ray cluster runs on this machine: start one by `ray start --head`, or give hydra.launcher.address=local for one "
            "that ends with the command"
        )
    return (
        f"the Ray cluster at {address} cannot be joined ({why}): check that it runs, that this machine is one of its nodes, and "
        f"that its token is the one in ~/.ray/auth_token or {TOKEN_PATH}"
    )
