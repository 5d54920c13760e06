"""The wheel holds the package and its configuration, and `--help` imports no heavy package."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
HEAVY = ("torch", "pytorch_lightning", "transformers", "timm", "wandb", "matplotlib", "pandas", "pyarrow")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    return zipfile.ZipFile(next(WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])))


def test_wheel_holds_every_configuration_file(wheel):
    inside = {name for name in wheel.namelist() if name.startswith("gmu_lightning/conf/")}
    assert inside == {
        f"gmu_lightning/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*") if path.is_file()
    }
    assert "gmu_lightning/conf/train.yaml" in inside


def test_wheel_holds_exactly_the_package(wheel):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gmu_lightning").rglob("*.py")}
    assert modules <= set(wheel.namelist())
    assert {name.split("/")[0].split("-")[0] for name in wheel.namelist()} == {"gmu_lightning"}


def test_every_command_has_a_console_script():
    commands = {path.stem for path in (ROOT / "gmu_lightning").glob("*.py") if "def cli" in path.read_text()}
    assert {f"gmu-{command}": f"gmu_lightning.{command}:cli" for command in commands} == SCRIPTS


@pytest.mark.parametrize("target", SCRIPTS.values(), ids=SCRIPTS)
def test_console_script_resolves(target):
    module, _, function = target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("command", [target.partition(":")[0] for target in SCRIPTS.values()])
@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]], ids=" ".join)
def test_help_and_cfg_import_no_heavy_package(command, arguments, tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert command.partition(".")[0] in imported
    assert not imported & set(HEAVY)
    assert list(tmp_path.iterdir()) == []
