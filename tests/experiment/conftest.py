"""Configurations of runs, composed and resolved as by the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from gmu_lightning.cli.command_line import register_plugins
from gmu_lightning.config.groups import conf_folder
from gmu_lightning.config.resolve import resolve
from gmu_lightning.config.schema import RunConfig
from gmu_lightning.sweep.job import plain


@pytest.fixture
def composed() -> Iterator[Callable[..., DictConfig]]:
    """Return a function from overrides to a composed configuration with its Hydra node."""
    register_plugins()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        yield lambda *overrides, name="train": compose(name, overrides=list(overrides), return_hydra_config=True)


@pytest.fixture
def run_config(composed: Callable[..., DictConfig]) -> Callable[..., RunConfig]:
    """Return a function from overrides to a typed configuration."""

    def typed(*overrides: str) -> RunConfig:
        config = composed(*overrides)
        return RunConfig.of(resolve(plain(config), OmegaConf.to_container(config.hydra.runtime.choices)))

    return typed
