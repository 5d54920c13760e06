"""Classes of a configuration are imported, or one sentence says why not; a user's folder adds only what it defines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gmu_lightning.config.classes import class_of, own_class
from gmu_lightning.movie import UserError

MODULE = """
import os
from os import system
from subprocess import Popen
from pathlib import Path as Borrowed

class Mine:
    class Inner: ...

class Alike(Popen): ...

def function(): ...
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A user's folder that Python imports from; its modules are forgotten afterwards."""
    (tmp_path / "own_module.py").write_text(MODULE)
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("import os\n")
    (package / "inside.py").write_text(MODULE)
    known = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith("own_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        ("", "own_thing.Class", r"module own_thing \(.*own_thing.py\) has no Class; it has no class"),
        ("class Fusion: ...", "own_thing.Fusoin", r"has no Fusoin; did you mean Fusion\?"),
        ("class Other: ...", "own_thing.Fusion", "has no Fusion; its classes are Other"),
        ("def f(:", "own_thing.Class", r"line 1 of .*own_thing.py is no valid Python \(invalid syntax\); mend that line"),
        ("\nimport nowhere", "own_thing.Class", "imports nowhere, which is not installed; .* in line 2 of .*own_thing.py"),
        ("\n\n1 / 0", "own_thing.Class", r"raises ZeroDivisionError \(division by zero\) .*, in line 3 of .*own_thing.py"),
        ("raise SystemExit", "own_thing.Class", "own_thing raises SystemExit as it is imported, in line 1 of"),
        ("", "own_thign.Class", "finds no module own_thign; correct the name, or type --config-dir FOLDER .* own_thign.py"),
        ("", "own_package.lacking.Class", "no module own_package.lacking; .* with the folder of own_package/lacking.py"),
        ("", "Class", "it names no module, so write MODULE.CLASS"),
    ],
)
def test_the_reason_of_a_failed_import_is_named(folder, content, name, sentence):
    (folder / "own_thing.py").write_text(content)
    with pytest.raises(UserError, match=rf"^_target_={name} cannot be imported: .*{sentence}"):
        class_of(name)


@pytest.mark.parametrize("name", ["own_module.Mine", "own_module.Alike", "own_package.inside.Mine"])
def test_a_class_that_the_folder_defines_is_found(folder, name):
    assert own_class(name, str(folder)) is class_of(name)


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "subprocess.Popen", "builtins.eval", "posix.system", "own_module", "own_module.Mine.Inner"),
        *("own_module.system", "own_module.os.system", "own_module.Popen", "own_module.Borrowed", "own_module.function"),
        *(
            "own_package.os.system",
            "own_package.inside.Popen",
            "own_package.inside",
            "own_module:Mine",
            "..own_module.Mine",
            "",
            ".",
        ),
    ],
)
def test_other_objects_are_no_classes_of_the_folder(folder, name):
    assert own_class(name, str(folder)) is None


def test_a_module_outside_the_folder_is_not_imported(folder):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (folder / "own_trap.py").write_text("class Trap: ...")
    assert own_class("own_trap.Trap", str(elsewhere)) is None
    assert "own_trap" not in sys.modules


def test_an_installed_module_is_none_of_the_folder(folder):
    (folder / "subprocess.py").write_text("class Popen: ...")
    assert own_class("subprocess.Popen", str(folder)) is None


def test_the_packages_classes_are_none_of_the_folder():
    checkout = Path(sys.modules["gmu_lightning"].__file__).parents[1]
    assert own_class("gmu_lightning.sweep.workers.Worker", str(checkout)) is None
