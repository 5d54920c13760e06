"""Our own framework, taken apart: what a run would train on, handed to loops that do without it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from gmu_lightning.data.module import MovieData
from gmu_lightning.data.store import Store
from gmu_lightning.experiment import build
from gmu_lightning.experiment.conf import conf_folder
from gmu_lightning.experiment.settle import settle
from gmu_lightning.model import MovieGenreClassifier

FINE_TUNING = ("encoder/text=minilm", "encoder.text.freeze=none", "encoder/image=efficientnet_lite0", "fusion=gmu_original")


class Made(NamedTuple):
    """What `train` makes before it fits."""

    config: dict[str, Any]
    data: MovieData
    model: MovieGenreClassifier


def settled(words: Sequence[str]) -> dict[str, Any]:
    """The configuration of the run that these words describe."""
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        composed = compose("train", [*words], return_hydra_config=True)
    HydraConfig.instance().set_config(composed)
    choices = OmegaConf.to_container(composed.hydra.runtime.choices)
    del composed.hydra
    plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict) and isinstance(choices, dict)
    return settle({str(k): v for k, v in plain.items()}, {str(k): v for k, v in choices.items()})


def made(words: Sequence[str]) -> Made:
    """Data, columns (prepared and encoded if the store has none) and the model with its first weights."""
    config, cpu = settled(words), torch.device("cpu")
    store = Store(config["store"]["dir"])
    encoders = build.build_encoders(config)
    data = build.build_data(config, store)
    build.build_columns(data, encoders, build.needs_of(config), store, cpu)
    model = build.build_model(config, data, encoders)
    build.fit_normalisers(model, data, cpu)
    data.seed_order(int(config["seed"]))
    return Made(config, data, model)


if __name__ == "__main__":
    made(sys.argv[1:])  # fills the store, so that nobody else has to
