"""A stranger's configuration is data: it names classes of our own groups, and its content is never executed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir

from gmu_lightning.config.groups import checked_as_data, choices_of, conf_folder, import_from, known_targets, node_of
from gmu_lightning.movie import UserError

WHERE = Path("their run/config.yaml")
HARMLESS: dict[str, Any] = {
    "seed": 1,
    "fusion": {"_target_": "gmu_lightning.fusion.GMU", "dim": 16},
    "encoder": {"text": {"_target_": "gmu_lightning.encoders.text.BagOfWords", "vectors": None}},
    "tags": ["a $ sign", "{braces}", 1.5],
}


def test_a_run_of_this_package_is_accepted():
    assert checked_as_data(HARMLESS, WHERE) == HARMLESS


def test_a_class_of_an_older_run_is_found_by_its_name():
    older = {**HARMLESS, "encoder": {"text": {"_target_": "gmu_lightning.encoders.words.BagOfWords", "vectors": None}}}
    assert checked_as_data(older, WHERE) == HARMLESS
    renamed = checked_as_data({"data": {"_target_": "gmu_lightning.data.planted.Planted"}}, WHERE)
    assert renamed == {"data": {"_target_": "gmu_lightning.data.planted.PlantedDataModule"}}


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.optim.optimizer.os.system",
        "gmu_lightning.files.write_text",
        "gmu_lightning.fusion.GMU.os.system",
        "builtins.eval",
        "",
        None,
        7,
        {},
        ["gmu_lightning.fusion.GMU"],
        {"a": "gmu_lightning.fusion.GMU"},
    ],
)
@pytest.mark.parametrize("wrap", [lambda node: node, lambda node: {"a": {"b": node}}, lambda node: {"a": [1, [node]]}])
def test_a_class_of_no_group_is_refused_at_any_depth(target, wrap):
    with pytest.raises(UserError, match=r"their run/config\.yaml names the class .* not one of this package's choices"):
        checked_as_data({**HARMLESS, "extra": wrap({"_target_": target})}, WHERE)


OWN = {**HARMLESS, "fusion": {"_target_": "their_fusions.Theirs"}}


def test_the_refusal_of_an_own_class_names_the_option():
    with pytest.raises(
        UserError,
        match=r"unless you trust the class and install its package, or type trust=MODULE.CLASS or --config-dir FOLDER, the "
        r"folder of its module$",
    ):
        checked_as_data(OWN, WHERE)
    with pytest.raises(UserError, match=r"\(the run was trained with --config-dir '/my parts'\)$"):
        checked_as_data({**OWN, "config_dir": "/my parts"}, WHERE)


def test_a_folder_accepts_the_classes_that_it_defines(tmp_path, monkeypatch):
    (tmp_path / "their_fusions.py").write_text("from os import system\nclass Theirs: ...")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert checked_as_data(OWN, WHERE, str(tmp_path)) == OWN
    for target in ("os.system", "their_fusions.system", 7):
        hostile = {**OWN, "extra": [{"_target_": target}]}
        with pytest.raises(UserError, match=rf"names the class {target}, .* not defined in a module of --config-dir"):
            checked_as_data(hostile, WHERE, str(tmp_path))


def test_a_recorded_folder_is_no_permission(tmp_path, monkeypatch):
    (tmp_path / "their_fusions.py").write_text("class Theirs: ...")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="it is not read"):
        checked_as_data({**OWN, "config_dir": str(tmp_path)}, WHERE)


def test_a_folder_without_clashes_is_imported_from(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", ["elsewhere"])
    (tmp_path / "fusion").mkdir()
    (tmp_path / "fusion/mine.yaml").write_text("")
    import_from(str(tmp_path))
    assert sys.path == [str(tmp_path), "elsewhere"]


def test_a_yaml_that_would_not_be_read_is_refused(tmp_path):
    (tmp_path / "fusion").mkdir()
    (tmp_path / "fusion/mean.yaml").write_text("_target_: mine.Mean")
    with pytest.raises(UserError, match=r"mean\.yaml would not be read, for this package has fusion/mean.yaml too"):
        import_from(str(tmp_path))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--config-dir=.*/none is no folder: give the folder that holds your YAML files"):
        import_from(str(tmp_path / "none"))


def test_own_choices_are_added_to_those_of_the_package(tmp_path):
    (tmp_path / "fusion").mkdir()
    (tmp_path / "fusion/mine.yaml").write_text("dim: 3")
    assert set(choices_of("fusion", str(tmp_path))) == {*choices_of("fusion"), "mine"}
    assert node_of("fusion", "mine", str(tmp_path)) == {"dim": 3}
    assert node_of("fusion", "mine") == {}


@pytest.mark.parametrize(
    "config",
    [
        {"data": {"root": "${oc.env:HOME}"}},
        {"data": {"roots": ["/data", "before ${seed} after"]}},
    ],
)
def test_an_interpolation_is_refused(config):
    with pytest.raises(UserError, match=r"their run/config\.yaml holds the interpolation .*\$\{.*, which no run writes"):
        checked_as_data({**HARMLESS, **config}, WHERE)


def test_a_hydra_node_is_refused():
    with pytest.raises(UserError, match=r"their run/config\.yaml holds a hydra node, which no run writes"):
        checked_as_data({**HARMLESS, "hydra": {}}, WHERE)


def test_the_known_classes_are_those_of_the_groups():
    named = set()
    for path in conf_folder().rglob("*.yaml"):
        for line in path.read_text().splitlines():
            key, _, value = line.strip().partition(":")
            if key == "_target_":
                named.add(yaml.safe_load(value))
    assert named == known_targets() >= {"gmu_lightning.fusion.GMU", "gmu_lightning.encoders.text.BagOfWords"}


def test_the_choices_of_a_group_are_its_files():
    assert {"gmu_original", "gmu_hier", "gmu_softmax", "none"} <= set(choices_of("fusion"))
    assert "minilm" in choices_of("encoder/text")
    assert choices_of("no group") == []
    assert not [choice for choice in choices_of(".") if choice.startswith("_")]


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "online"),
        ({"WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_MODE": "Disabled"}, "disabled"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "run"}, "online"),
        ({"WANDB_MODE": ""}, "online"),
        ({"WANDB_DISABLED": "true"}, "disabled"),
        ({"WANDB_DISABLED": "false"}, "online"),
        ({"WANDB_DISABLED": "true", "WANDB_MODE": "offline"}, "offline"),
    ],
)
def test_the_environment_sets_the_mode_of_wandb_unless_typed(monkeypatch, variables, mode):
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        assert compose("train", ["logger=wandb"]).logger.wandb.mode == mode
        assert compose("train", ["logger=wandb", "logger.wandb.mode=online"]).logger.wandb.mode == "online"


@pytest.mark.parametrize("command", ["train", "prepare", "evaluate", "adopt", "compare", "dashboard", "store", "info", "doctor"])
def test_no_command_logs_to_a_file(command):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        hydra = compose(command, return_hydra_config=True).hydra
    for logging in (hydra.job_logging, hydra.hydra_logging):
        assert "file" not in str(logging.get("handlers", {})).lower()
