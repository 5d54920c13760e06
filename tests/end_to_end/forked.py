"""Run commands in forks of a process that has imported their libraries, which saves each of them seconds of imports.

A fork is a process of its own, with the folder, environment, arguments and output of the command.
"""

from __future__ import annotations

import json
import os
import runpy
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
    *("gmu_lightning.experiment.train", "gmu_lightning.experiment.evaluate", "gmu_lightning.sweep.files"),
    *("pydantic", "sklearn.preprocessing", "scipy.stats", "matplotlib.figure", "pyarrow.parquet", "pandas"),
)


class Forks:
    """A process that waits for commands, and runs each in a fork."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=environment
        )
        theirs.close()
        self.socket = ours

    def run(
        self, words: list[str], folder: Path, environment: dict[str, str], patience: float
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m MODULE ARGUMENTS`, given as the words from MODULE on, and return its exit code and output."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            request = json.dumps({"words": words, "folder": str(folder), "environment": environment}).encode()
            socket.send_fds(self.socket, [len(request).to_bytes(8, "big")], [out.fileno(), err.fileno()])
            self.socket.sendall(request)
            self.socket.settimeout(patience)
            code = int.from_bytes(_received(self.socket, 8), "big", signed=True)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(words, code, *(_text(file.read()) for file in (out, err)))


def _text(output: bytes) -> str:
    return output.decode().replace("\r\n", "\n").replace("\r", "\n")


@cache
def forks() -> Forks:
    """Return the process of these tests."""
    return Forks()


def serve(number: int) -> None:
    """Run commands until the socket with this number is closed."""
    for module in IMPORTED:
        import_module(module)
    with socket.socket(fileno=number) as asked:
        while True:
            head, files, _, _ = socket.recv_fds(asked, 8, 2)
            if not head:
                return
            request = json.loads(_received(asked, int.from_bytes(head, "big")))
            child = os.fork()
            if child == 0:
                asked.close()
                _become(request, files)
            for file in files:
                os.close(file)
            _, status = os.waitpid(child, 0)
            asked.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))


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
        sys.path[0] = request["folder"]
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
    serve(int(sys.argv[1]))
