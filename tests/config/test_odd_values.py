"""Odd values of every setting are accepted, or refused in one sentence that names the setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from gmu_lightning.cli.command_line import register_plugins
from gmu_lightning.config.groups import conf_folder
from gmu_lightning.config.resolve import resolve
from gmu_lightning.config.schema import RunConfig
from gmu_lightning.experiment.choices import check_choices
from gmu_lightning.movie import UserError
from gmu_lightning.sweep.job import plain

ODD = {
    "null": None,
    "text": "odd",
    "empty": "",
    "list": [1, "a"],
    "mapping": {"a": 1},
    "negative": -1,
    "zero": 0,
    "nan": float("nan"),
    "infinite": float("inf"),
    "huge": 10**30,
    "fraction": 0.37,
    "true": True,
}
BASES = {
    "smoke": ("experiment=smoke",),
    "presets": ("experiment=mult_gmu", "callbacks=early_stopping", "logger=[csv]"),
    "trained": ("data=mmimdb", "encoder/text=minilm", "fusion=bottleneck", "loss=asymmetric", "scheduler=plateau"),
    "trailers": ("data=moviescope", "modalities=video+audio", "encoder/video=trailer", "encoder/audio=trailer_mel96"),
}
OTHERS = ("fusion._partial_", "logger", "choices")  # checked by Hydra and other libraries


@cache
def composed(base: str) -> tuple[dict[str, Any], dict[str, Any]]:
    register_plugins()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("train", list(BASES[base]), return_hydra_config=True)
    return plain(config), dict(config.hydra.runtime.choices)


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{name}.")
        elif key != "_partial_" and not name.startswith(OTHERS):
            yield name


def chosen(base: str) -> list[str]:
    """Return the keys that a run of this base reads."""
    config, choices = composed(base)
    return list(leaves(resolve(config, choices)))


def changed(config: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    found = deepcopy(dict(config))
    *path, last = key.split(".")
    node = found
    for name in path:
        node = node[name]
    node[last] = value
    return found


def refusal_of(base: str, key: str, value: Any) -> str | None:
    """Return the sentence that refuses the value, or None if it is accepted."""
    config, choices = composed(base)
    try:
        check_choices(RunConfig.of(resolve(changed(config, key, value), choices)))
    except UserError as error:
        return str(error)
    return None


CASES = [(base, key) for base in BASES for key in chosen(base)]


def test_there_are_many_values():
    assert len(CASES) * len(ODD) > 1000


@pytest.mark.parametrize(("base", "key"), CASES)
def test_odd_values_are_accepted_or_named(base, key):
    for kind, value in ODD.items():
        sentence = refusal_of(base, key, value)
        named = sentence is None or key.rpartition(".")[2] in sentence
        assert named and (sentence is None or "\n" not in sentence), (kind, sentence)


@pytest.mark.parametrize("group", ["data", "encoder", "encoder.text", "fusion", "loss", "optimizer", "scheduler", "trainer"])
@pytest.mark.parametrize("value", [None, "odd", [], 3])
def test_a_group_that_is_no_mapping_is_named(group, value):
    sentence = refusal_of("smoke", group, value)
    assert sentence is not None and group.split(".")[0] in sentence


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fusion.dim", 10**7),
        ("optimizer.lr", -1),
        ("optimizer.lr", float("nan")),
        ("encoder.image.size", 100_000),
        ("data.modalities", None),
        ("trainer.accelerator", "tpu"),
        ("monitor", "val/f1_mikro"),
        ("data.workers", 10_000),
        ("data.movies", 10**8),
        ("trainer.check_val_every_n_epoch", 2),
        ("trainer.threads", 10**6),
        ("store.dir", "x" * 300),
        ("data.root", "y/" * 3000),
    ],
)
def test_values_that_once_caused_a_traceback_are_refused(key, value):
    sentence = refusal_of("smoke", key, value)
    assert sentence is not None and key in sentence and len(sentence) < 700
