"""Commands in README and the pages run, or compose where their data are not here; built pages load no file from elsewhere."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from .forked import forks
from .shell import PATIENCE, environment

ROOT = Path(__file__).parents[2]
# test_own_pages runs the commands of the pages on own parts.
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {text.relative_to(ROOT).as_posix(): text for text in TEXTS if not text.name.startswith("add_a")}
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
NEEDS = "# needs "  # first line of a block whose data, device or account are not here
FAILS = "# fails"  # first line of a block that ends with an error
# A block runs in an empty folder. Targets of make are looked up without being made, and nothing is installed.
PRELUDE = """set -eu
make() { command make --dry-run --directory "$ROOT" "$@"; }
pip() { true; }
mkdir -p .venv/bin && touch .venv/bin/activate
ln -sfn "$ROOT/examples" examples
"""


def blocks(page: str) -> list[str]:
    """Return the blocks of shell commands of a page."""
    return BLOCK.findall(PAGES[page].read_text(encoding="utf-8"))


def runnable(page: str) -> list[str]:
    """Return the blocks of a page that need no data, device or account."""
    return [block for block in blocks(page) if not block.startswith(NEEDS)]


def in_bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script as a user of this environment and this checkout would."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = environment(folder / "store", PATH=path, ROOT=str(ROOT), PYTHONPATH=str(ROOT), WANDB_MODE="offline")
    return subprocess.run(
        ["bash", "-c", forks().in_bash + PRELUDE + script],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,
        check=False,
    )


def composed(command: list[str]) -> list[str]:
    """Return the module and arguments that print the configuration of the first job of `command`, or of its only one."""
    first = [re.sub(r"^([\w./]+=[^,(\[]*),.*$", r"\1", argument) for argument in command[3:] if argument != "-m"]
    return [command[2], *(first if "-m" in command[3:] else command[3:]), "--cfg", "job"]


def needing_data() -> list[list[str]]:
    """Return the commands of gmu_lightning in the blocks that need data, a device or an account."""
    lines = [
        line
        for page in PAGES
        for block in blocks(page)
        if block.startswith(NEEDS)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("python -m gmu_lightning.")]


@pytest.mark.heavy
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)])
def test_every_command_of_a_page_runs(page, tmp_path):
    for block in runnable(page):
        done = in_bash(block, tmp_path)
        assert (done.returncode != 0) is block.startswith(FAILS), f"{block}\n{done.stdout}\n{done.stderr}"


@pytest.mark.heavy
def test_the_python_of_a_page_runs(tmp_path):
    script = "\n".join(PYTHON.findall(PAGES["docs/howto/from_python.md"].read_text(encoding="utf-8")))
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(tmp_path / "store", PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "fusion=gmu_orignal is no choice: did you mean gmu_original" in done.stdout


def test_notebooks_hold_no_output():
    notebooks = [path for path in (ROOT / "examples").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    assert notebooks
    cells = [cell for path in notebooks for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.heavy
@pytest.mark.parametrize("command", needing_data(), ids=" ".join)
def test_command_that_needs_data_composes(command, tmp_path):
    shutil.copytree(ROOT / "examples" / "my_fusion", tmp_path / "my_parts")
    done = forks().run(composed(command), tmp_path, environment(None), PATIENCE)
    assert done.returncode == 0, done.stderr


def test_choices_that_pages_name_exist():
    own = {path.stem for path in (ROOT / "examples").rglob("*.yaml")}
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES.values())
    named = [(group, choice) for group, values in re.findall(r"([\w/]+)=([\w,]+)", text) for choice in values.split(",")]
    groups = {group for group, _ in named if (ROOT / "conf" / group).is_dir()}
    assert len(groups) > 5
    unknown = [
        choice
        for group, choice in named
        if group in groups and not [path for path in (ROOT / "conf" / group).glob("*.yaml") if path.stem.startswith(choice)]
    ]  # a page on completion shows how a name begins
    assert {choice for choice in unknown if not [name for name in own if name.startswith(choice)]} == {"gmu_orignal"}  # misspelt


def test_installed_extras_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [
        extra for path in PAGES.values() for extra in re.findall(r"pip install '\.\[(\w+)\]'", path.read_text(encoding="utf-8"))
    ]
    assert named and set(named) <= set(extras)


def test_links_of_readme_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)", PAGES["README.md"].read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).is_file()] == []


def test_readme_stays_short():
    assert len(PAGES["README.md"].read_text(encoding="utf-8").split()) <= 1500


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Return the folder of the pages, built with every warning as an error."""
    pytest.importorskip("myst_nb")
    folder, start = tmp_path_factory.mktemp("html"), tmp_path_factory.mktemp("start") / "bash"
    start.write_text(forks().in_bash)
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html", str(ROOT / "docs"), str(folder)],
        env={**os.environ, "BASH_ENV": str(start)},
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.heavy
def test_pages_load_nothing_from_elsewhere(built):
    loads = re.compile(
        r"""<(?:script|img|iframe|source|link)\b[^>]*(?:src|href)=["'](?:https?:)?//[^"']+|url\(["']?(?:https?:)?//[^)]+|@import"""
    )
    files = [path for path in built.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > 20
    found = {path.name: loads.findall(path.read_text(encoding="utf-8")) for path in files}
    assert {name: urls for name, urls in found.items() if urls} == {}


@pytest.mark.heavy
def test_tutorial_shows_its_leaderboard(built):
    text = (built / "tutorial.html").read_text(encoding="utf-8")
    assert "gmu_original" in text
    assert "9 finished, 0 failed" in text


@pytest.mark.heavy
def test_the_notebook_shows_intervals_and_letters(built):
    text = (built / "howto/notebook.html").read_text(encoding="utf-8")
    assert "Settings that share a letter do not differ significantly." in text
    assert "95 % interval" in text
    assert "no choice: did you mean gmu_original" in text
