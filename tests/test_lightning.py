"""Lightning without what it could use for other people's scores; and everybody else finds that as ever."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib import metadata, util

import pytest

from gmu_lightning.lightning import EXTRAS, hidden

STRANGER = "tabnanny"  # a module of the standard library that nothing imports
PACKAGE = "hatchling"  # an installed distribution


def said_by(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


def test_every_room_imports_no_extra_and_each_can_be_imported_afterwards():
    code = f"""
import sys
import gmu_lightning.experiment.train, gmu_lightning.experiment.evaluate, gmu_lightning.sweep.job
print(*sorted(set({EXTRAS!r}) & set(sys.modules)))
import matplotlib.pyplot, scipy.signal, torchvision, transformers
from lightning_utilities.core.imports import RequirementCache
print(bool(RequirementCache("transformers>=4.4")), bool(RequirementCache("torchvision")))
print(transformers.AutoModel.__name__, torchvision.models.resnet18.__name__)
"""
    assert said_by(code)[:3] == ["", "True True", "AutoModel resnet18"]


def test_collections_go_on_after_the_import():
    assert said_by("import gc, gmu_lightning.lightning; print(gc.isenabled())")[0] == "True"


def test_a_hidden_package_is_found_again_afterwards(monkeypatch):
    monkeypatch.delitem(sys.modules, STRANGER, raising=False)
    with hidden((STRANGER,)):
        assert util.find_spec(STRANGER) is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(STRANGER)
        assert metadata.version("torch")  # what is not hidden is found
    assert importlib.import_module(STRANGER).__name__ == STRANGER


def test_a_hidden_distribution_looks_as_if_it_were_not_installed():
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
    assert said_by(code)[:2] == ["not installed", metadata.version(PACKAGE)]


def test_what_is_imported_already_stays_visible():
    with hidden(("pytest",)):
        assert importlib.import_module("pytest") is pytest
        assert metadata.version("pytest")
    assert sys.modules["pytest"] is pytest


def test_an_import_that_fails_hides_nothing_for_good(monkeypatch):
    monkeypatch.delitem(sys.modules, STRANGER, raising=False)
    before = metadata.Distribution.__dict__["from_name"]
    with pytest.raises(ImportError, match="broken"), hidden((STRANGER,)):
        raise ImportError("broken")
    assert metadata.Distribution.__dict__["from_name"] is before
    assert util.find_spec(STRANGER) is not None
