"""Folders that a command line names become absolute, are imported from, and offer their choices."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from gmu_lightning.cli.search_path import use_folders
from gmu_lightning.config.groups import choices_of, known_targets
from gmu_lightning.movie import UserError

from ..installed import site


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that installs a package; the current folder has the folder `own parts` with a fusion."""
    monkeypatch.chdir(tmp_path)
    Path("own parts/fusion").mkdir(parents=True)
    Path("own parts/fusion/own.yaml").write_text("_target_: own_fusions.Own\n")
    with site(tmp_path / "site") as function:
        yield function


@pytest.mark.parametrize("entry", ["own parts", "file://own parts", "'own parts'", "./site/../own parts"])
def test_a_folder_becomes_absolute_and_known(install, tmp_path, entry):
    (changed,), config_dir = use_folders([f"hydra.searchpath=[{entry}]"])
    folder = str(tmp_path / "own parts")
    assert OverridesParser.create().parse_override(changed).value() == [f"file://{folder}"]
    assert config_dir == folder == sys.path[0]
    assert "own" in choices_of("fusion")
    assert "own_fusions.Own" in known_targets()


def test_a_folder_with_a_quote_stays_one_entry(install, tmp_path):
    Path("it's").mkdir()
    (changed,), _ = use_folders(['hydra.searchpath=["it\'s"]'])
    assert OverridesParser.create().parse_override(changed).value() == [f"file://{tmp_path}/it's"]


def test_the_first_folder_is_recorded(install, tmp_path):
    Path("more").mkdir()
    assert use_folders(["hydra.searchpath=[more,own parts]"]).config_dir == str(tmp_path / "more")
    assert use_folders(["--config-dir", "own parts", "hydra.searchpath=[more]"]).config_dir == str(tmp_path / "own parts")


def test_a_package_is_looked_up_without_its_entry_point(install):
    install("mine", "mine.nowhere")
    assert "my_fusion" not in choices_of("fusion")
    changed, config_dir = use_folders(["hydra.searchpath=[pkg://mine.conf]", "seed=1"])
    assert changed == ["hydra.searchpath=['pkg://mine.conf']", "seed=1"]
    assert config_dir is None
    assert "my_fusion" in choices_of("fusion") and "mine.parts.Mine" in known_targets()


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("nowhere", r"hydra.searchpath=/.*/nowhere is no folder: give the folder"),
        ("pkg://nowhere.conf", "hydra.searchpath=pkg://nowhere.conf names no folder of an installed package: install it"),
    ],
)
def test_a_missing_folder_is_named(install, entry, sentence):
    with pytest.raises(UserError, match=f"^{sentence}"):
        use_folders([f"hydra.searchpath=[{entry}]"])


def test_a_name_in_use_is_refused(install, tmp_path):
    Path("more/fusion").mkdir(parents=True)
    Path("more/fusion/own.yaml").write_text("dim: 3")
    with pytest.raises(UserError, match=r"more/fusion/own\.yaml would not be read, for --config-dir=.* has fusion/own.yaml too"):
        use_folders(["--config-dir", "own parts", "hydra.searchpath=[more]"])


@pytest.mark.parametrize("argument", ["hydra.searchpath=[s3://bucket]", "hydra.searchpath=[", "hydra.searchpath=x", "seed=1"])
def test_other_arguments_are_left_to_hydra(install, argument):
    (changed,), config_dir = use_folders([argument])
    assert changed.replace("'", "") == argument
    assert config_dir is None
