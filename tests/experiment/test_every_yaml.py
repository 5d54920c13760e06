"""Every YAML of every group composes, settles and makes what it names; the folders are listed, so a new one is tested too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from gmu_lightning.data.module import MovieData
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.experiment import build
from gmu_lightning.experiment.conf import choices_of, conf_folder
from gmu_lightning.experiment.loggers import close_loggers, open_loggers
from gmu_lightning.experiment.settle import settle
from gmu_lightning.experiment.train import make_trainer
from gmu_lightning.fusion import Fusion
from gmu_lightning.movie import MODALITIES
from gmu_lightning.run import Run
from gmu_lightning.sweep.callback import SweepFiles
from gmu_lightning.sweep.command_line import register_plugins
from gmu_lightning.sweep.task import plain

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
}
ENCODERS = {f"encoder/{modality}" for modality in MODALITIES}


def each(*groups: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("group", "choice"), [(group, choice) for group in groups for choice in choices_of(group)])


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    register_plugins()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        yield


def composed(*overrides: str, name: str = "train") -> DictConfig:
    return compose(name, overrides=list(overrides), return_hydra_config=True)


def settled(*overrides: str) -> dict[str, Any]:
    config = composed(*overrides)
    return settle(plain(config), OmegaConf.to_container(config.hydra.runtime.choices))


def test_every_group_is_tested_here():
    folders = {path.parent.relative_to(conf_folder()).as_posix() for path in conf_folder().rglob("*.yaml")} - {"."}
    assert folders == TESTED | ENCODERS


@pytest.mark.parametrize("name", [path.stem for path in conf_folder().glob("*.yaml")])
def test_a_command_composes(name):
    overrides = ["run=somewhere"] if name == "evaluate" else []
    config = OmegaConf.masked_copy(composed(*overrides, name=name), ["store", "data"])
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@each(*sorted(ENCODERS))
def test_an_encoder_is_one_of_its_modality(group, choice):
    modality = group.removeprefix("encoder/")
    encoder = build.make(settled(f"{group}={choice}", f"modalities={modality}", "fusion=none")["encoder"][modality])
    assert isinstance(encoder, Encoder)
    assert encoder.modality == modality


@each("data")
def test_a_data_set_is_made_without_reading_anything(group, choice):
    data = build.make(settled(f"data={choice}", "data.root=nowhere")["data"])
    assert isinstance(data, MovieData)
    assert {"text", "image"} <= set(data.modalities)


@each("fusion")
def test_a_fusion_is_made_when_the_sizes_are_known(group, choice):
    modalities = "text" if choice == "none" else "image+text"
    config = settled(f"fusion={choice}", f"modalities={modalities}")
    build.check_sense(config)
    encoders = {modality: SimpleNamespace(dim=4, sequences=True) for modality in modalities.split("+")}
    fusion = build.build_fusion(config, encoders)
    assert isinstance(fusion, Fusion)
    assert list(fusion.sizes) == modalities.split("+")


@each("loss")
def test_a_loss_is_made_from_the_train_labels(group, choice):
    loss = build.make(settled(f"loss={choice}")["loss"], labels=np.eye(3, dtype=bool))
    assert loss(torch.zeros(2, 3), torch.ones(2, 3)).shape == ()


@each("optimizer")
def test_an_optimizer_is_made_from_parameter_groups(group, choice):
    groups = [{"params": [nn.Parameter(torch.ones(2, requires_grad=True))], "lr": 0.1, "weight_decay": 0.0}]
    optimizer = build.make(settled(f"optimizer={choice}")["optimizer"], params=groups)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1


@each("scheduler")
def test_a_schedule_is_made_from_the_optimizer_and_the_steps(group, choice):
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))], lr=0.1)
    made = build.make(settled(f"scheduler={choice}")["scheduler"], optimizer=optimizer, total_steps=10)
    for schedule in made if isinstance(made, list) else [made]:
        assert schedule.optimizer is optimizer


@each("trainer", "callbacks")
def test_a_trainer_is_made(group, choice, tmp_path):
    config = settled(f"{group}={choice}", "trainer.accelerator=cpu", "trainer.progress=none")
    trainer = make_trainer(config, [], [], Run(tmp_path / "run"))
    assert isinstance(trainer, pl.Trainer)
    own = [type(node).__name__ for node in trainer.callbacks]
    assert all(node["_target_"].rsplit(".")[-1] in own for node in (config.get("callbacks") or {}).values())


@each("logger")
def test_a_logger_opens_and_closes(group, choice, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    offline = ["logger.wandb.mode=disabled"] if choice == "wandb" else []
    config = settled(f"logger=[{choice}]", *offline)
    (tmp_path / "run").mkdir()
    loggers = open_loggers(config, Run(tmp_path / "run"), group="a sweep")
    assert len(loggers) == len([node for node in (config.get("logger") or {}).values() if node])
    close_loggers(loggers, {"test/f1_micro": 0.5}, [])


@each("experiment")
def test_a_preset_settles_and_makes_sense(group, choice):
    config = settled(f"experiment={choice}")
    build.check_sense(config)
    assert config["choices"]["experiment"] == choice
    for modality, node in config["encoder"].items():
        assert build.make(node).modality == modality


@each("hydra/launcher")
def test_a_launcher_is_one_of_hydras(group, choice):
    from hydra.plugins.launcher import Launcher

    node = composed(f"{group}={choice}").hydra.launcher
    assert isinstance(instantiate(node), Launcher)


@each("sweep")
def test_a_sweep_names_its_folders_and_writes_its_files(group, choice):
    config = composed(f"sweep={choice}")
    made = [instantiate(node) for node in config.hydra.callbacks.values()]
    assert any(isinstance(callback, SweepFiles) for callback in made)
    assert Path(config.hydra.sweep.subdir).name.startswith("gmu_original-text+image-seed1-")
    assert config.hydra.run.dir.endswith("gmu_original-text+image-seed1")
