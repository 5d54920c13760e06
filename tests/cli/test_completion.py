"""A shell completes choices, keys, options and folders, also behind paths that Hydra's grammar cannot read."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from gmu_lightning.cli.command_line import is_path, register_plugins
from gmu_lightning.cli.completion import FILES, asks_for_completion, completion, files, read

from ..installed import site


@pytest.fixture
def complete(monkeypatch, tmp_path):
    """(line, command) -> the candidates for its last word, in a folder with some files."""
    register_plugins()
    monkeypatch.chdir(tmp_path)
    for folder in ("my movies/raw", "mine", ".hidden"):
        Path(folder).mkdir(parents=True)
    Path("movies.tar.gz").touch()
    path = list(sys.path)

    def do(line: str, command: str = "train") -> list[str]:
        monkeypatch.setenv("COMP_LINE", f"gmu-{command} {line}")
        GlobalHydra.instance().clear()
        return completion(command, ["-sc", "query=fish"], is_path)

    with site(tmp_path / "site"):
        yield do
    sys.path[:] = path
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("fusion=gmu_", ["fusion=gmu_hier", "fusion=gmu_original", "fusion=gmu_softmax"]),
        ("encoder/te", ["encoder/text="]),
        ("encoder/text=bert", ["encoder/text=bert_base", "encoder/text=bert_large"]),
        ("trainer.max", ["trainer.max_epochs="]),
        ("fusion=gmu_hier fusion.gate", ["fusion.gate_input="]),
        ("fusion=concat fusion.gate", []),
        ("-m fusion=mean,gmu_h", ["fusion=mean,gmu_hier"]),
        ("-m seed=1,2 fusion=mean,concat optimizer.l", ["optimizer.lr="]),
        ("data.root=~/mm\\ imdb fusion=gmu_h", ["fusion=gmu_hier"]),
        ("data.root='a, (b)' fusion=gmu_h", ["fusion=gmu_hier"]),
        ('data.root="a b" hydra/launcher=st', ["hydra/launcher=stacked"]),
        ("seed==3( fusion=gmu_h", ["fusion=gmu_hier"]),
        ("--help fusion=gmu_h", ["fusion=gmu_hier"]),
        ("--odd fusion=gmu_h", ["fusion=gmu_hier"]),
        ("--ver", ["--version"]),
        ("fusion=nowhere", []),
    ],
)
def test_the_last_word_is_completed(complete, line, expected):
    assert complete(line) == expected


def test_an_empty_word_gets_every_group_and_key(complete):
    found = complete("data.root=~/x ")
    assert {"fusion=", "encoder/", "seed=", "trainer."} <= {*found, *[f"{one}/" for one in found]}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("data.root=m", [FILES, "data.root=mine/", "data.root=movies.tar.gz", "data.root=my movies/"]),
        ("movie.text=m", []),
        ("movie.image=mo", [FILES, "movie.image=movies.tar.gz"]),
        ("movie.text='a, b=c' encoder/te", ["encoder/text="]),
        ("data.root=my\\ mo", [FILES, "data.root=my movies/"]),
        ("data.root='my movies/", [FILES, "data.root=my movies/raw/"]),
        ("data.root=nowhere/", []),
        ("--config-dir mi", [FILES, "mine/"]),
        ("store.dir=.h", [FILES, "store.dir=.hidden/"]),
    ],
)
def test_paths_are_completed(complete, line, expected):
    assert complete(line) == expected


def test_a_path_at_home_keeps_its_tilde(complete, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert complete("data.root=~/mi") == [FILES, "data.root=~/mine/"]


def test_own_choices_are_completed(complete, tmp_path):
    Path("mine/fusion").mkdir()
    Path("mine/fusion/mine_too.yaml").touch()
    assert complete("--config-dir mine fusion=mine") == ["fusion=mine_too"]


def test_choices_of_packages_are_completed(complete, tmp_path):
    with site(tmp_path / "packages") as install:
        install("mine")
        assert complete("fusion=my") == ["fusion=my_fusion"]


def test_other_commands_complete_their_keys(complete):
    assert complete("thres", "evaluate") == ["threshold="]
    assert complete("run=m", "evaluate")[1] == "run=mine/"
    assert complete("predictions=m", "adopt")[1] == "predictions=mine/"
    assert complete("name=m", "adopt") == []


@pytest.mark.parametrize(
    "line", ["seed=${", "fusion=", "--config-dir nowhere fusion=gmu_", "hydra.searchpath=[/nowhere] fusion=g"]
)
def test_an_error_shows_no_message(complete, line, capsys):
    complete(line)
    assert capsys.readouterr() == ("", "")


def test_the_cursor_ends_the_line():
    assert read({"COMP_LINE": "gmu-train seed=1 fusion=x", "COMP_POINT": "14"}) == ([], "seed")
    assert read({"COMP_LINE": "gmu-train a=1 "}) == (["a=1"], "")
    assert read({"COMP_LINE": "gmu-train 'a b"}) == ([], "a b")


def test_names_that_would_steer_a_terminal_are_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("plain", "line\nbreak", "esc\x1b"):
        Path(name).touch()
    assert files("") == ["plain"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["-sc", "query=bash"], True),
        (["--shell-completion", "install=bash"], True),
        (["-sc", "install=fish"], False),
        (["run=query=x"], False),
        (["query=bash"], False),
    ],
)
def test_questions_of_a_shell_are_recognised(typed, expected):
    assert asks_for_completion(typed) is expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the console script, files with awkward names, and a folder of own choices."""
    folder = tmp_path_factory.mktemp("bash")
    script = folder / "bin/gmu-train"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nfrom gmu_lightning.train import cli\ncli()\n")
    script.chmod(0o755)
    (folder / "own parts/fusion").mkdir(parents=True)
    (folder / "own parts/fusion/own_fusion.yaml").touch()
    (folder / "movies/$(touch hit)").mkdir(parents=True)
    return folder


class Bash:
    """An interactive bash in a terminal."""

    def __init__(self, folder: Path):
        mine, theirs = pty.openpty()
        path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
        python = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        variables = {**os.environ, "PATH": path, "PYTHONPATH": python, "PS1": "$ ", "TERM": "dumb", "INPUTRC": "/dev/null"}
        command = ["bash", "--norc", "--noprofile", "-i"]
        self.process = subprocess.Popen(command, cwd=folder, env=variables, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self.terminal = mine

    def types(self, keys: str, until: str, patience: float = 60.0) -> str:
        """Type keys, and return the output up to the expected text, or all of it where the text does not come."""
        os.write(self.terminal, keys.encode())
        seen, end = "", time.monotonic() + patience
        while until not in seen and time.monotonic() < end:
            if select.select([self.terminal], [], [], 0.1)[0]:
                seen += os.read(self.terminal, 4096).decode(errors="replace")
        return seen


@pytest.fixture(scope="module")
def bash(folder) -> Iterator[Bash]:
    shell = Bash(folder)
    shell.types('eval "$(gmu-train -sc install=bash)" && echo inst""alled\n', "installed")
    yield shell
    shell.process.kill()
    shell.process.wait()
    os.close(shell.terminal)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("fusion=gmu_h", "fusion=gmu_hier"),
        ("data.root=~/mmimdb fusion=gmu_h", "fusion=gmu_hier"),
        ("data.root=my\\ movies encoder/te", "encoder/text="),
        ("-m seed=1,2 fusion=mean,gmu_s", "fusion=mean,gmu_softmax"),
        ("--config-dir own\\ parts fusion=own", "fusion=own_fusion"),
        ("--config-dir ow", "own\\ parts/"),
        ("data.root=own\\ pa", "data.root=own\\ parts/"),
        ("data.root=movies/", "movies/\\$\\(touch\\ hit\\)/"),
        ("trainer.max_e", "trainer.max_epochs="),
    ],
)
def test_bash_completes_a_word(bash, folder, keys, line):
    seen = bash.types(f"\x15gmu-train {keys}\t", line)
    assert line in seen, seen
    assert not (folder / "hit").exists()
