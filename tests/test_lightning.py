"""Lightning is imported without the optional packages of torchmetrics, and later imports find them again."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib import metadata, util

import pytest

from gmu_lightning.lightning import EXTRAS, hidden

UNUSED = "tabnanny"  # a module of the standard library that no package here imports
PACKAGE = "hatchling"  # an installed distribution


def output_of(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


def test_extras_are_imported_only_on_demand():
    code = f"""
import sys
import gmu_lightning.experiment.train, gmu_lightning.experiment.evaluate, gmu_lightning.sweep.job
print(*sorted(set({EXTRAS!r}) & set(sys.modules)))
import matplotlib.pyplot, scipy.signal, torchvision, transformers
from lightning_utilities.core.imports import RequirementCache
print(bool(RequirementCache("transformers>=4.4")), bool(RequirementCache("torchvision")))
print(transformers.AutoModel.__name__, torchvision.models.resnet18.__name__)
"""
    assert output_of(code)[:3] == ["", "True True", "AutoModel resnet18"]


def test_garbage_collection_is_enabled_after_the_import():
    assert output_of("import gc, gmu_lightning.lightning; print(gc.isenabled())")[0] == "True"


def test_hidden_package_is_found_afterwards(monkeypatch):
    monkeypatch.delitem(sys.modules, UNUSED, raising=False)
    with hidden((UNUSED,)):
        assert util.find_spec(UNUSED) is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(UNUSED)
        assert metadata.version("torch")  # other packages are found
    assert importlib.import_module(UNUSED).__name__ == UNUSED


def test_hidden_distribution_looks_uninstalled():
    code = f"""
from importlib import metadata
from gmu_lightning.lightning import hidden
with hidden(({PACKAGE!r},)):
    try:
        metadata.version({PACKAGE!r})
    except metadata.PackageNotFoundError:
        print("not installed")
print(metadata.version({PACKAGE!r}))
"""
    assert output_of(code)[:2] == ["not installed", metadata.version(PACKAGE)]


def test_imported_package_stays_visible():
    with hidden(("pytest",)):
        assert importlib.import_module("pytest") is pytest
        assert metadata.version("pytest")
    assert sys.modules["pytest"] is pytest


def test_failing_import_restores_hidden_packages(monkeypatch):
    monkeypatch.delitem(sys.modules, UNUSED, raising=False)
    before = metadata.Distribution.__dict__["from_name"]
    with pytest.raises(ImportError, match="broken"), hidden((UNUSED,)):
        raise ImportError("broken")
    assert metadata.Distribution.__dict__["from_name"] is before
    assert util.find_spec(UNUSED) is not None
