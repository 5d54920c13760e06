"""A run of version 0.1 before classes counted by name: `evaluate` and `compare` read it as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from gmu_lightning.config.schema import RunConfig
from gmu_lightning.data.store import Store
from gmu_lightning.experiment.choices import check_choices
from gmu_lightning.experiment.evaluate import evaluate
from gmu_lightning.report.comparison import compare
from gmu_lightning.run import Run

OLDER = Path(__file__).parent / "older_run"


@pytest.fixture
def older(smoke, tmp_path) -> Run:
    """The smoke run's files under the older run's configuration and status, as that version left them."""
    run = Run(shutil.copytree(smoke.folder, tmp_path / "older"))
    for name in ("config.yaml", "status.json"):
        shutil.copy(OLDER / name, run / name)
    path = run / "checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["gmu_lightning"]["config"] = run.config
    torch.save(checkpoint, path)
    return run


def test_an_older_configuration_names_the_classes_of_today():
    config = RunConfig.recorded(Run(OLDER).config, OLDER / "config.yaml")
    check_choices(config)
    for part in (config.data, config.fusion, *config.encoder.values()):
        assert isinstance(part.target, type)
    assert config.store.dir == "/an/older/store"


def test_an_older_run_is_evaluated_to_the_same_scores(older, store):
    folder = evaluate(older, "test", None, "0.5", Store(store))
    assert json.loads((folder / "metrics.json").read_text())["test/f1_micro"] == older.metrics["test/f1_micro"]


def test_an_older_run_is_compared_with_one_of_today(older, train):
    other = train("trainer.max_epochs=1", "fusion=mean")
    found = compare([older, other], "f1_micro")
    assert len(found.settings) == 2
