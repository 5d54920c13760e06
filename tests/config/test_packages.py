"""Installed packages add choices through an entry point, without being imported; a broken one is named in a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gmu_lightning.config import packages
from gmu_lightning.config.groups import (
    checked_as_data,
    choices_of,
    import_from,
    known_targets,
    node_of,
    package_problems,
    refuse_broken_packages,
)
from gmu_lightning.movie import UserError

from ..installed import site


@pytest.fixture
def install(tmp_path):
    """(name, entry point, files, code) -> the folder of choices of a package that is installed for the test."""
    with site(tmp_path / "site packages") as function:
        yield function


def test_a_package_is_found_and_not_imported(install):
    folder = install("my-parts")
    (found,) = packages.installed()
    assert found == packages.Package("my-parts", "1.2", "my_parts_parts = my_parts.conf", folder)
    assert "my_parts" not in sys.modules


@pytest.mark.parametrize("declared", ["mine.conf", "mine:conf", "mine.conf [extra]"])
def test_the_entry_point_is_a_package_or_a_place_in_one(install, declared):
    assert packages.folder_of(declared) is None  # not there yet
    folder = install("mine", declared)
    assert packages.installed()[0].folder == folder


def test_a_package_of_two_folders_counts_once(install, tmp_path):
    install("my-parts")
    with site(tmp_path / "nearer") as install_nearer:
        nearer = install_nearer("my_parts")
        assert [one.folder for one in packages.installed()] == [nearer]


def test_the_current_folder_has_no_packages(install, tmp_path, monkeypatch):
    install("mine")
    monkeypatch.chdir(tmp_path / "site packages")
    packages.installed.cache_clear()
    assert packages.installed() == ()


def test_choices_and_classes_of_a_package_are_known(install):
    before = choices_of("fusion")
    install("mine")
    assert set(choices_of("fusion")) == {*before, "my_fusion"}
    assert node_of("fusion", "my_fusion")["_target_"] == "mine.parts.Mine"
    assert "mine.parts.Mine" in known_targets()
    run = {"fusion": {"_target_": "mine.parts.Mine"}}
    assert checked_as_data(run, Path("run/config.yaml")) == run
    assert "mine" not in sys.modules


def test_a_damaged_file_hides_no_class_of_the_others(install):
    install("mine", files={"fusion/a.yaml": "_target_: [", "fusion/b.yaml": "_target_: mine.parts.Mine"})
    assert "mine.parts.Mine" in known_targets()


def test_classes_of_other_files_of_a_package_stay_unknown(install):
    install("mine", files={"fusion/my_fusion.yaml": "", "outputs/run/config.yaml": "{_target_: os.system}"})
    assert "os.system" not in known_targets()
    with pytest.raises(
        UserError, match=r"unless you trust the class and install its package, or type trust=MODULE.CLASS or --config-dir FOLDER"
    ):
        checked_as_data({"fusion": {"_target_": "os.system"}}, Path("run/config.yaml"))


def problem() -> str:
    """Return the sentence that refuses the installed packages."""
    with pytest.raises(UserError) as refused:
        refuse_broken_packages()
    assert str(refused.value) == next(iter(package_problems()))
    return str(refused.value)


def test_a_sound_package_has_no_problem(install):
    install("mine")
    refuse_broken_packages()


def test_a_missing_folder_is_named(install):
    install("my-parts", "my_parts.configuration")
    assert problem() == (
        "the package my-parts declares the entry point gmu_lightning.conf: my_parts_parts = my_parts.configuration, and that "
        "folder does not exist: correct the entry point, or type pip uninstall my-parts"
    )


@pytest.mark.parametrize("files", [{"README": ""}, {"fusions/mine.yaml": ""}])
def test_a_folder_without_choices_is_named(install, files):
    install("mine", files=files)
    assert "mine/conf holds no choice such as fusion/NAME.yaml: add the YAML files to the package's wheel" in problem()


def test_a_name_of_this_package_is_refused(install):
    folder = install("mine", files={"fusion/mean.yaml": "dim: 3"})
    assert problem() == (
        f"{folder}/fusion/mean.yaml would not be read, for this package has fusion/mean.yaml too: rename the file in mine, "
        "or type pip uninstall mine"
    )


def test_a_name_of_another_package_is_refused(install):
    install("first", files={"loss/own.yaml": "a: 1"})
    install("second", files={"loss/own.yaml": "a: 2"})
    assert "second/conf/loss/own.yaml would not be read, for the package first has loss/own.yaml too" in problem()


def test_a_name_of_a_package_is_refused_in_an_own_folder(install, tmp_path):
    install("mine")
    (tmp_path / "own/fusion").mkdir(parents=True)
    (tmp_path / "own/fusion/my_fusion.yaml").write_text("dim: 3")
    with pytest.raises(UserError, match=r"for the package mine has fusion/my_fusion.yaml too: give your file another name"):
        import_from(str(tmp_path / "own"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a: 1\n_target_: [\n", "line 3 of {path} of the package mine is no valid YAML ("),
        ("- a\n", "{path} of the package mine holds a list: write keys and values"),
        ("a: \x00", "{path} of the package mine is no text of valid YAML ("),
    ],
)
def test_a_damaged_file_is_named_with_its_package(install, content, sentence):
    folder = install("mine", files={"fusion/broken.yaml": content})
    with pytest.raises(UserError) as refused:
        node_of("fusion", "broken")
    assert str(refused.value).startswith(sentence.format(path=folder / "fusion/broken.yaml"))
