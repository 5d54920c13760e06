"""The pages on own fusions, encoders, data sets and packages: their files are the examples, and their commands work in order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gmu_lightning import testing

from .forked import forks
from .shell import PATIENCE, environment

HOME = Path(__file__).parents[2]
PARTS = {"add_a_fusion": "my_fusion", "add_an_encoder": "my_encoder", "add_a_data_set": "my_data"}
PAGES = {**PARTS, "add_a_package": "my_package"}
FILE = re.compile(r"^`(?:my_parts|my_package)/([\w./]+)`( begins with)?:\n\n```\w+\n(.*?)^```", re.M | re.S)
COMMANDS = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)
# pip installs into a folder of the test, without a look at the index.
PIP = """pip() { python -m pip --quiet "$@" --no-deps --no-build-isolation --target "$SITE"; }
"""
# Shorter training than on the pages: one epoch on sixty movies.
QUICKSTART, SHORT = "experiment=quickstart", "experiment=quickstart trainer.max_epochs=1 data.movies=60"
MESSAGE = re.compile(r"^\| `([^`]+)` \|", re.M)
VARYING = re.compile(r"…|\b(?:0|nan|train|movie|MyMovies|MyFusion|image|audio|text|torch\.float32)\b")


def page_of(name: str) -> str:
    return (HOME / f"docs/howto/{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_the_files_of_a_page_are_those_of_its_example(name):
    example = HOME / "examples" / PAGES[name]
    shown = {path: (begins, text) for path, begins, text in FILE.findall(page_of(name))}
    assert shown.keys() == {path.relative_to(example).as_posix() for path in example.rglob("*.*") if path.suffix != ".pyc"}
    for path, (begins, text) in shown.items():
        content = (example / path).read_text(encoding="utf-8")
        assert content.startswith(text) if begins else content == text, path


@pytest.mark.parametrize("name", PARTS)
def test_a_page_explains_messages_that_exist(name):
    source = "".join(module.read_text(encoding="utf-8") for module in Path(testing.__file__).parent.glob("*.py"))
    table = page_of(name).partition("| the message begins with |")[2]
    pieces = [piece.strip(" ,") for message in MESSAGE.findall(table) for piece in VARYING.split(message)]
    assert [piece for piece in pieces if len(piece) > 6 and piece not in source] == []
    assert len(pieces) > 5


@pytest.mark.heavy
@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_work(name, tmp_path):
    shutil.copytree(HOME / "examples" / PAGES[name], tmp_path / ("my_parts" if name in PARTS else PAGES[name]))
    found = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    path = os.pathsep.join([str(HOME), str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    blocks = COMMANDS.findall(page_of(name))
    assert len(blocks) > 2
    for block in blocks:
        done = subprocess.run(
            ["bash", "-e", "-c", forks().in_bash + PIP + block.replace(QUICKSTART, SHORT)],
            cwd=tmp_path,
            env=environment(tmp_path / "store", PATH=found, PYTHONPATH=path, SITE=str(tmp_path / "site")),
            capture_output=True,
            text=True,
            timeout=5 * PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stderr[-2000:]}"
        if "check_" in block:
            assert done.stdout == ""


def test_the_example_fusion_follows_the_rules(monkeypatch):
    monkeypatch.syspath_prepend(str(HOME / "examples/my_fusion"))
    from my_fusions import MyFusion

    testing.check_fusion(MyFusion)
