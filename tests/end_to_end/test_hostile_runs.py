"""Commands on hostile and damaged run folders end in one sentence, execute no code and print no escape sequences."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from gmu_lightning.cli import command_line, tasks
from gmu_lightning.files import write_json, write_text

from ..report.made_runs import Sweep, write_study
from .hostile import CANARY, Case, cases

SECONDS = 10
TASKS = {"train": tasks.train, "evaluate": tasks.evaluate, "compare": tasks.compare, "dashboard": tasks.dashboard}
CASES = cases()
EVERYDAY = CASES[::31]  # of each kind some
PARTS = 6  # of the heavy test, which share the cases
SEARCHED = {
    "trials": 1,
    "space": {"fusion.dim": {"choices": [8, 16]}},
    "seed": 0,
    "monitor": "val/ap_micro",
    "settings": [{"overrides": ["a"], "why_not": None, "trials": [{"params": {"fusion.dim": 8}, "score": 0.5}], "best": None}],
}
MULTIRUN = """hydra:
  overrides:
    hydra: [hydra/launcher=processes]
  runtime:
    config_sources:
    - {path: hydra.conf, schema: pkg, provider: hydra}
"""


@dataclass
class Ended:
    """A command's exit code (None after `SECONDS`) and output."""

    code: int | None
    text: str

    @property
    def controls(self) -> list[str]:
        return [c for c in self.text if c not in "\n\t" and (c < " " or "\x7f" <= c <= "\x9f" or c in "\u202e\u2066")]


@pytest.fixture(scope="module")
def sound(smoke, tmp_path_factory) -> Path:
    """A run and a sweep, each beside a canary."""
    folder = tmp_path_factory.mktemp("sound")
    shutil.copytree(smoke.folder, folder / "evaluate/run", ignore=shutil.ignore_patterns("evaluate"))
    sweep = Sweep(folder / "compare/sweep", {"val": 12, "test": 16})
    first = sweep.run("gmu_original", 1, 2.0)
    sweep.run("gmu_original", 2, 2.0)
    sweep.run("concat", 1, 0.5)
    write_study(first, {"text": 0.1, "image": 0.2})
    write_json(sweep.folder / "search/search.json", SEARCHED)
    write_text(sweep.folder / "multirun.yaml", MULTIRUN)
    for name in ("evaluate", "compare"):
        (folder / name / CANARY).write_text("sound")
    return folder


@pytest.fixture(scope="module")
def copied(sound, store) -> Callable[[str, Path], list[str]]:
    """(command, folder) -> its arguments on a copy of the sound run or sweep in that folder."""

    def copy(command: str, folder: Path) -> list[str]:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sound / ("evaluate" if command == "evaluate" else "compare"), folder)
        if command == "evaluate":
            return [f"run={folder / 'run'}", f"store.dir={store}"]
        return [f"runs={folder / 'sweep'}", *(["mode=offline"] if command == "dashboard" else []), "output=board"]

    return copy


@pytest.fixture(scope="module")
def warmed(copied, tmp_path_factory) -> Callable[[str], None]:
    """(command) -> nothing. The first call runs the command in this process, which saves its forks the imports and templates."""

    @cache
    def warm(command: str) -> None:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            patch.chdir(tmp_path_factory.mktemp("warm"))
            patch.setattr(sys, "argv", [command, *copied(command, Path("sound").absolute())])
            patch.setenv("HYDRA_FULL_ERROR", "")
            GlobalHydra.instance().clear()
            command_line.call(TASKS[command])

    return warm


@pytest.fixture
def ended(copied, warmed, tmp_path) -> Callable[[Case], Ended]:
    """(case) -> how its command ended, in a process forked from this one."""

    def run(case: Case) -> Ended:
        warmed(case.command)
        folder = tmp_path / "case"
        words = copied(case.command, folder)
        run = folder / "run"
        if case.command != "evaluate":
            run = min(path for path in (folder / "sweep").iterdir() if (path / "evaluate").is_dir())
        path = run.parent / case.file[3:] if case.file.startswith("../") else run / case.file
        case.change(path)
        code = forked(case.command, [*words, *case.words], folder)
        assert (folder / CANARY).read_text() == "sound", case.id
        printed = "".join((folder / name).read_bytes().decode("utf-8", "backslashreplace") for name in ("out", "err"))
        return Ended(code, printed)

    return run


def forked(name: str, words: list[str], folder: Path, seconds: float = SECONDS) -> int | None:
    """The exit code of a command in a child of this process, None after `seconds`."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            os.chdir(folder)
            for number, file in ((1, "out"), (2, "err")):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), number)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            os.environ["HYDRA_FULL_ERROR"] = ""
            sys.argv = [name, *words]
            try:
                command_line.call(TASKS[name])
                code = 0
            except SystemExit as error:
                code = int(error.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def problem(case: Case, found: Ended) -> str | None:
    """Return the first fault in the end of a command; None if it is sound."""
    if found.code is None:
        return "hang"
    if "Traceback" in found.text or found.code not in (0, 1):
        return "traceback"
    if found.controls:
        return "control characters"
    return "exit code" if case.code not in (None, found.code) else None


@pytest.mark.parametrize("case", EVERYDAY, ids=lambda case: case.id)
def test_a_hostile_folder_ends_in_a_sentence(ended, case):
    found = ended(case)
    assert problem(case, found) is None, found.text


@pytest.mark.heavy
@pytest.mark.parametrize("part", range(PARTS))
def test_no_hostile_folder_ends_otherwise(ended, part, capsys):
    problems: dict[str, str] = {}
    start = time.monotonic()
    cases = CASES[part::PARTS]
    with capsys.disabled():
        for case in cases:
            found = ended(case)
            if wrong := problem(case, found):
                problems[case.id] = wrong
                print(f"  {wrong}: {case.id}: {found.text[-200:]!r}", flush=True)
        counts = Counter(problems.values())
        told = ", ".join(f"{kind} {counts[kind]}" for kind in ("traceback", "hang", "control characters", "exit code"))
        print(f"{len(cases)} of {len(CASES)} hostile run folders, {time.monotonic() - start:.0f} s: {told}", flush=True)
    assert len(CASES) >= 240
    assert not problems
