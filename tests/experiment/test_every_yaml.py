"""Every YAML of every group composes, resolves and builds its class. The folders are listed, so new files are tested too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from gmu_lightning.balance import PlainTraining
from gmu_lightning.config.groups import choices_of, conf_folder
from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.experiment.choices import check_choices
from gmu_lightning.experiment.loggers import close_loggers, open_loggers
from gmu_lightning.experiment.train import make_trainer
from gmu_lightning.fusion import Fusion
from gmu_lightning.movie import MODALITIES
from gmu_lightning.run import Run

TESTED = {
    "callbacks",
    "data",
    "experiment",
    "fusion",
    "hydra/launcher",
    "hydra/sweeper",
    "logger",
    "loss",
    "optimizer",
    "scheduler",
    "sweep",
    "trainer",
    "training",
}
ENCODERS = {f"encoder/{modality}" for modality in MODALITIES}


def each(*groups: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("group", "choice"), [(group, choice) for group in groups for choice in choices_of(group)])


def test_every_group_is_tested_here():
    folders = {path.parent.relative_to(conf_folder()).as_posix() for path in conf_folder().rglob("*.yaml")} - {"."}
    assert folders == TESTED | ENCODERS


@pytest.mark.parametrize("name", [path.stem for path in conf_folder().glob("[!_]*.yaml")])
def test_a_command_composes(name, composed):
    overrides = ["run=somewhere"] if name == "evaluate" else []
    config = OmegaConf.masked_copy(composed(*overrides, name=name), ["store", "data"])
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@each(*sorted(ENCODERS))
def test_an_encoder_is_one_of_its_modality(group, choice, run_config):
    modality = group.removeprefix("encoder/")
    encoder = run_config(f"{group}={choice}", f"modalities={modality}", "fusion=none").encoder[modality].make()
    assert isinstance(encoder, Encoder)
    assert encoder.modality == modality


@each("data")
def test_a_data_set_is_made_without_reading_files(group, choice, run_config):
    data = run_config(f"data={choice}", "data.root=nowhere").data.make()
    assert isinstance(data, MovieDataModule)
    assert {"text", "image"} <= set(data.data_set.modalities)


@each("fusion")
def test_a_fusion_is_made_from_the_sizes(group, choice, run_config):
    modalities = "text" if choice == "none" else "image+text"
    config = run_config(f"fusion={choice}", f"modalities={modalities}")
    check_choices(config)
    encoders = {modality: SimpleNamespace(dim=4, sequences=True) for modality in modalities.split("+")}
    fusion = config.fusion.make(**config.fusion.target.arguments(encoders))
    assert isinstance(fusion, Fusion)
    assert list(fusion.sizes) == modalities.split("+")


@each("loss")
def test_a_loss_is_made_from_the_train_labels(group, choice, run_config):
    loss = run_config(f"loss={choice}").loss.make(labels=np.eye(3, dtype=bool))
    assert loss(torch.zeros(2, 3), torch.ones(2, 3)).shape == ()


@each("optimizer")
def test_an_optimizer_is_made_from_parameter_groups(group, choice, run_config):
    groups = [{"params": [nn.Parameter(torch.ones(2, requires_grad=True))], "lr": 0.1, "weight_decay": 0.0}]
    optimizer = run_config(f"optimizer={choice}").optimizer.make(params=groups)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1


@each("scheduler")
def test_a_schedule_is_made_from_the_optimizer_and_the_steps(group, choice, run_config):
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))], lr=0.1)
    made = run_config(f"scheduler={choice}").scheduler.make(optimizer=optimizer, total_steps=10)
    for schedule in made if isinstance(made, list) else [made]:
        assert schedule.optimizer is optimizer


@each("training")
def test_a_training_method_is_made(group, choice, run_config):
    config = run_config(f"training={choice}")
    check_choices(config)
    assert isinstance(config.training.make(), PlainTraining)


@each("trainer", "callbacks")
def test_a_trainer_is_made(group, choice, tmp_path, run_config):
    config = run_config(f"{group}={choice}", "trainer.accelerator=cpu", "trainer.progress=none")
    trainer = make_trainer(config, [], [], Run(tmp_path / "run"))
    assert isinstance(trainer, pl.Trainer)
    own = [type(node).__name__ for node in trainer.callbacks]
    assert all(part.target.__name__ in own for part in config.callbacks.values())


@each("logger")
def test_a_logger_opens_and_closes(group, choice, tmp_path, monkeypatch, run_config):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    offline = ["logger.wandb.mode=disabled"] if choice == "wandb" else []
    config = run_config(f"logger=[{choice}]", *offline)
    (tmp_path / "run").mkdir()
    loggers = open_loggers(config, Run(tmp_path / "run"), group="a sweep")
    assert len(loggers) == len(config.logger)
    close_loggers(loggers, {"test/f1_micro": 0.5}, [])


@each("experiment")
def test_a_preset_resolves_to_compatible_choices(group, choice, run_config):
    config = run_config(f"experiment={choice}")
    check_choices(config)
    assert config.choices["experiment"] == choice
    for modality, part in config.encoder.items():
        assert part.make().modality == modality


@each("hydra/launcher")
def test_a_launcher_is_one_of_hydras(group, choice, composed):
    from hydra.plugins.launcher import Launcher

    node = composed(f"{group}={choice}").hydra.launcher
    assert isinstance(instantiate(node), Launcher)


@each("sweep")
def test_a_sweep_names_its_folders(group, choice, composed):
    config = composed(f"sweep={choice}")
    assert Path(config.hydra.sweep.subdir).name.startswith("gmu_original-text+image-seed1-")
    assert config.hydra.run.dir.endswith("gmu_original-text+image-seed1")
