"""A stranger's configuration is data: it names what our own groups name, and nothing in it is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir

from gmu_lightning.experiment.conf import checked_as_data, choices_of, conf_folder, known_targets
from gmu_lightning.movie import UserError

WHERE = Path("their run/config.yaml")
HARMLESS: dict[str, Any] = {
    "seed": 1,
    "fusion": {"_target_": "gmu_lightning.fusion.GMU", "dim": 16},
    "encoder": {"text": {"_target_": "gmu_lightning.encoders.words.BagOfWords", "vectors": None}},
    "tags": ["a $ sign", "{braces}", 1.5],
}


def test_a_run_of_ours_is_accepted():
    checked_as_data(HARMLESS, WHERE)


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
def test_a_class_that_no_group_of_ours_names_is_refused_wherever_it_stands(target, wrap):
    with pytest.raises(UserError, match=r"their run/config\.yaml names the class .* not one of this package's choices"):
        checked_as_data({**HARMLESS, "extra": wrap({"_target_": target})}, WHERE)


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


def test_a_node_of_hydras_is_refused():
    with pytest.raises(UserError, match=r"their run/config\.yaml holds a hydra node, which no run writes"):
        checked_as_data({**HARMLESS, "hydra": {}}, WHERE)


def test_every_class_that_a_group_of_ours_names_is_known_and_nothing_else():
    named = set()
    for path in conf_folder().rglob("*.yaml"):
        for line in path.read_text().splitlines():
            key, _, value = line.strip().partition(":")
            if key == "_target_":
                named.add(yaml.safe_load(value))
    assert named == known_targets() >= {"gmu_lightning.fusion.GMU", "gmu_lightning.encoders.words.BagOfWords"}


def test_the_choices_of_a_group_are_its_files():
    assert {"gmu_original", "gmu_hier", "gmu_softmax", "none"} <= set(choices_of("fusion"))
    assert "minilm" in choices_of("encoder/text")
    assert choices_of("no group") == []


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
def test_the_mode_of_wandb_is_what_the_environment_asks_for_unless_typed(monkeypatch, variables, mode):
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        assert compose("train", ["logger=wandb"]).logger.wandb.mode == mode
        assert compose("train", ["logger=wandb", "logger.wandb.mode=online"]).logger.wandb.mode == "online"


@pytest.mark.parametrize("command", ["train", "prepare", "evaluate", "compare", "dashboard"])
def test_no_command_logs_to_a_file(command):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        hydra = compose(command, return_hydra_config=True).hydra
    for logging in (hydra.job_logging, hydra.hydra_logging):
        assert "file" not in str(logging.get("handlers", {})).lower()
