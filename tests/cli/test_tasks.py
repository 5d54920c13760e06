"""Tasks hand the settings of a command to the functions that do the work."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from gmu_lightning.cli import tasks
from gmu_lightning.config.groups import conf_folder
from gmu_lightning.sweep.session import Session


@pytest.mark.parametrize(("robustness", "expected"), [("false", None), ("true", 3)])
def test_only_robustness_uses_its_seed(tmp_path, monkeypatch, robustness, expected):
    seeds = []
    monkeypatch.setattr("gmu_lightning.experiment.evaluate.evaluate", lambda *arguments: seeds.append(arguments[5]) or tmp_path)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("evaluate", ["run=x", f"store.dir={tmp_path}", f"robustness={robustness}", "robustness_seed=3"])
    tasks.evaluate(config, Session())
    assert seeds == [expected]
