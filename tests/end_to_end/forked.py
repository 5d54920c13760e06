"""Run commands in forks of a process that has imported their libraries, which saves each of them seconds of imports.

A fork is a process of its own, with the folder, environment, arguments and output of the command. It does not start Python
anew: the folders of PYTHONPATH are added to its path, and a `sitecustomize` in them is not imported.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import shlex
import socket
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

IMPORTED = (
    *("gmu_lightning.cli.command_line", "gmu_lightning.cli.tasks", "gmu_lightning.lightning", "gmu_lightning.config.schema"),
    *("gmu_lightning.experiment.train", "gmu_lightning.experiment.evaluate", "gmu_lightning.experiment.prepare"),
    *("gmu_lightning.sweep.files", "gmu_lightning.sweep.search", "gmu_lightning.sweep.ray_launcher"),
    *("gmu_lightning.sweep.slurm_launcher", "gmu_lightning.report.page.write"),
    *("pydantic", "sklearn.preprocessing", "scipy.stats", "matplotlib.figure", "pyarrow.parquet", "pandas"),
)


class Forks:
    """A process that waits for commands, and runs each in a fork.

    Attributes:
        in_bash: a definition of the function `python` for bash, by which `python -m gmu_lightning...` is such a fork.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.place = tempfile.TemporaryDirectory()
        address = f"{self.place.name}/socket"
        with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(address)
            listening.listen()
            numbers = [theirs.fileno(), listening.fileno()]
            self.process = subprocess.Popen([sys.executable, __file__, *map(str, numbers)], pass_fds=numbers, env=environment)
        self.socket = ours
        client = shlex.join([sys.executable, "-I", "-S", __file__, address])
        self.in_bash = f"""python() {{
    case "$*" in
        "-m gmu_lightning"*) {client} "${{@:2}}" ;;
        *) command python "$@" ;;
    esac
}}
"""

    def run(
        self, words: list[str], folder: Path, environment: dict[str, str], patience: float
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m MODULE ARGUMENTS`, given as the words from MODULE on, and return its exit code and output."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            self.socket.settimeout(patience)
            code = _asked(self.socket, words, folder, environment, [out.fileno(), err.fileno()])
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(words, code, *(_text(file.read()) for file in (out, err)))


def _text(output: bytes) -> str:
    return output.decode().replace("\r\n", "\n").replace("\r", "\n")


@cache
def forks() -> Forks:
    """Return the process of these tests."""
    return Forks()


def _asked(server: socket.socket, words: list[str], folder: Path, environment: dict[str, str], files: list[int]) -> int:
    """Return the exit code of a command that the server runs, with the files as stdout and stderr."""
    request = json.dumps({"words": words, "folder": str(folder), "environment": environment}).encode()
    socket.send_fds(server, [len(request).to_bytes(8, "big")], files)
    server.sendall(request)
    return int.from_bytes(_received(server, 8), "big", signed=True)


def ask(address: str, words: list[str]) -> int:
    """Return the exit code of a command that the server at an address runs in the place of this process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.connect(address)
        return _asked(server, words, Path.cwd(), dict(os.environ), [1, 2])


def serve(number: int, listens: int) -> None:
    """Run commands that the socket `number` asks for, until it is closed, and those that clients of the socket `listens` do."""
    for module in IMPORTED:
        import_module(module)
    with socket.socket(fileno=number) as asked, socket.socket(fileno=listens) as listening:
        while True:
            ready, _, _ = select.select([asked, listening], [], [])
            if asked in ready:
                if not _answered(asked, listening):
                    return
            else:
                with listening.accept()[0] as other:
                    _answered(other, asked, listening)


def _answered(asked: socket.socket, *others: socket.socket) -> bool:
    """Run the command that a socket asks for in a fork without these sockets. Return False if the socket is closed."""
    head, files, _, _ = socket.recv_fds(asked, 8, 2)
    if not head:
        return False
    request = json.loads(_received(asked, int.from_bytes(head, "big")))
    child = os.fork()
    if child == 0:
        for open_socket in (asked, *others):
            open_socket.close()
        _become(request, files)
    for file in files:
        os.close(file)
    _, status = os.waitpid(child, 0)
    asked.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))
    return True


def _become(request: dict[str, Any], files: list[int]) -> None:
    """Turn this fork into the command, and end with its exit code."""
    code = 1
    try:
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        module, *arguments = request["words"]
        sys.argv = [module, *arguments]
        folders = request["environment"].get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:1] = [request["folder"], *(folder for folder in folders if folder and folder not in sys.path)]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        import atexit

        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _received(asked: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = asked.recv(size - len(parts))
        if not part:
            raise EOFError("the process of the commands ended")
        parts += part
    return parts


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        serve(int(sys.argv[1]), int(sys.argv[2]))
    else:
        raise SystemExit(ask(sys.argv[1], sys.argv[2:]))
