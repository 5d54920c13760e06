"""Build data and model of a run, for training loops outside the framework."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from gmu_lightning.config.groups import conf_folder
from gmu_lightning.config.resolve import resolve
from gmu_lightning.config.schema import RunConfig
from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.data.store import Store
from gmu_lightning.experiment import build
from gmu_lightning.features.columns import FeatureCache
from gmu_lightning.model import MovieGenreClassifier

FINE_TUNING = ("encoder/text=minilm", "encoder.text.freeze=none", "encoder/image=efficientnet_lite0", "fusion=gmu_original")


class Made(NamedTuple):
    """Configuration, data and model of a run, before training."""

    config: RunConfig
    data: MovieDataModule
    model: MovieGenreClassifier


def resolved(words: Sequence[str]) -> RunConfig:
    """Return the configuration of the run for these words of the command line."""
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        composed = compose("train", [*words], return_hydra_config=True)
    HydraConfig.instance().set_config(composed)
    choices = OmegaConf.to_container(composed.hydra.runtime.choices)
    del composed.hydra
    plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict) and isinstance(choices, dict)
    return RunConfig.of(resolve({str(k): v for k, v in plain.items()}, {str(k): v for k, v in choices.items()}))


def made(words: Sequence[str]) -> Made:
    """Return the data and the model with its initial weights; missing columns are prepared and encoded."""
    config, cpu = resolved(words), torch.device("cpu")
    store = Store(config.store.dir)
    encoders = build.build_encoders(config.encoder)
    table = build.load_table(config, store)
    cache = FeatureCache(store, cpu)
    table, columns, _ = build.build_columns(table, encoders, config.fusion.target, cache)
    model, data = build.build_model(config, table, columns, encoders)
    build.fit_normalisers(model, data, cpu)
    return Made(config, data, model)


if __name__ == "__main__":
    made(sys.argv[1:])  # fills the store
