"""The names of the package: cheap to import, and functions even where a module has the same name."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import gmu_lightning as gl
from gmu_lightning import api


def test_importing_the_package_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import gmu_lightning; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["gmu_lightning"]


@pytest.mark.parametrize("name", ["train", "sweep"])
def test_a_function_stays_one_after_the_module_of_its_name_is_imported(name):
    module = importlib.import_module(f"gmu_lightning.{name}")
    importlib.reload(module)
    assert getattr(gl, name).__wrapped__ is getattr(api, name)
    assert inspect.signature(getattr(gl, name)) == inspect.signature(getattr(api, name))
    assert getattr(gl, name).__doc__ == getattr(api, name).__doc__
    assert sys.modules[f"gmu_lightning.{name}"] is module


def test_the_modules_of_a_function_s_name_are_found_by_their_path():
    import gmu_lightning.sweep.files as files  # noqa: PLR0402  # this form asks the package for `sweep`
    from gmu_lightning import sweep, train
    from gmu_lightning.train import cli

    assert gl.sweep.files is files
    assert (callable(sweep), callable(train), callable(cli)) == (True, True, True)
    with pytest.raises(AttributeError):
        gl.sweep.no_such_module


def test_every_exported_name_exists_and_no_other():
    assert {name: getattr(gl, name).__name__ for name in gl.__all__} == {name: name for name in gl.__all__}
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        gl.no_such_name
