"""Each preset has its published settings, or its table and header give the reason. Parameter counts are the published ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from gmu_lightning.config.groups import choices_of, conf_folder
from gmu_lightning.config.schema import PartConfig
from gmu_lightning.encoders.temporal import MeanPool
from gmu_lightning.fusion import Fusion

TABLE = conf_folder() / "experiment" / "README.md"
OWN = {"quickstart", "quickstart_trimodal", "smoke"}  # presets of this project's own
TITLE = "# Otherwise than published (all settings and their sources: README.md in this folder):"
KEY = re.compile(r"`(.+)`")
PLACE = re.compile(r"^[\w/.]*(\.(py|md|json):|)\d+(:\d+)?")


class Row(NamedTuple):
    """A setting as published and as configured here."""

    setting: str
    published: Any
    here: Any
    source: str
    difference: str


def table() -> dict[str, list[Row]]:
    """{preset: its rows}, read from the Markdown."""
    sections = re.split(r"^## ", TABLE.read_text(), flags=re.MULTILINE)[1:]
    return {text.split("\n", 1)[0].strip(): [row for line in text.splitlines() if (row := _row(line))] for text in sections}


def _row(line: str) -> Row | None:
    if not line.startswith("|") or line.startswith(("| setting |", "|---")):
        return None
    setting, published, here, source, difference = (cell.strip() for cell in line.strip("|\n").split("|"))
    return Row(setting, yaml.safe_load(published), yaml.safe_load(here), source, difference)


ROWS = table()
PRESETS = sorted(set(choices_of("experiment")) - OWN)


def value_of(config: dict[str, Any], key: str) -> Any:
    """Return the value of `a.b`, of a choice such as `encoder/text`, or of a product `a * b`."""
    if "*" in key:
        return prod(value_of(config, part.strip()) for part in key.split("*"))
    if key in config["choices"]:
        return config["choices"][key]
    for part in key.split("."):
        config = config[part]
    return config


def header_of(preset: str) -> str:
    lines = (conf_folder() / "experiment" / f"{preset}.yaml").read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    return "\n".join(comments[comments.index(TITLE) :])


def listed(rows: list[Row]) -> str:
    """Return the header's list of differences."""
    found = [
        line for row in rows if row.difference for line in wrap(row.difference, 128, initial_indent="- ", subsequent_indent="  ")
    ]
    return "\n".join([TITLE, *(f"# {line}" for line in found)])


def test_the_table_has_every_published_preset():
    assert sorted(set(ROWS) & set(choices_of("experiment"))) == PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_value_that_the_table_gives(preset, run_config):
    config = run_config(f"experiment={preset}").mapping
    keys = {match[1]: row for row in ROWS[preset] if (match := KEY.fullmatch(row.setting))}
    assert {key: value_of(config, key) for key in keys} == {key: row.here for key, row in keys.items()}


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_value_that_differs_from_its_source_has_a_reason(name):
    unexplained = [row.setting for row in ROWS[name] if (row.published != row.here) != bool(row.difference)]
    assert not unexplained
    assert all(PLACE.match(place) for row in ROWS[name] for place in row.source.split(", "))
    assert len({row.setting for row in ROWS[name]}) == len(ROWS[name])


@pytest.mark.parametrize("preset", PRESETS)
def test_the_header_lists_the_differences_of_the_table(preset):
    assert header_of(preset) == listed(ROWS[preset])


@pytest.mark.parametrize("preset", PRESETS)
def test_the_table_has_every_setting_of_a_preset(preset):
    node = OmegaConf.to_container(OmegaConf.load(conf_folder() / "experiment" / f"{preset}.yaml"))
    chosen = [key.removeprefix("override /") for override in node.pop("defaults") for key in override]
    keys = {part.strip() for row in ROWS[preset] if (match := KEY.fullmatch(row.setting)) for part in match[1].split("*")}
    groups = {key for key in chosen if key.startswith("encoder/") or key == "fusion"}
    assert groups | set(leaves(node)) <= keys


def leaves(node: dict[str, Any], before: str = "") -> list[str]:
    found = []
    for key, value in node.items():
        inner = isinstance(value, dict) and f"{before}{key}" != "fusion.attention_dropout"
        found += leaves(value, f"{before}{key}.") if inner else [f"{before}{key}"]
    return found


@pytest.mark.parametrize("preset", ["arevalo2017", "lecture_moviescope", "mult_gmu"])
@pytest.mark.parametrize("choice", ["bottleneck", "lmf", "mean", "mmbt"])
def test_another_fusion_in_a_preset_has_its_own_options(preset, choice, run_config):
    own = set(OmegaConf.load(conf_folder() / "fusion" / f"{choice}.yaml"))
    node = run_config(f"experiment={preset}", f"fusion={choice}").fusion.node
    assert set(node) == own
    if preset == "lecture_moviescope":
        assert node.get("bias", False) is False
        assert node["dim"] == 768


@pytest.mark.parametrize(("variant", "parameters"), [("original", 10_223_616), ("hier", 8_454_144), ("softmax", 5_505_024)])
def test_lecture_moviescope_has_the_published_parameters(variant, parameters, run_config):
    config = run_config("experiment=lecture_moviescope", f"fusion=gmu_{variant}")
    encoders = {modality: part.make() for modality, part in config.encoder.items()}
    video = encoders["video"]
    assert isinstance(video, MeanPool)
    video.adopt(video.preparation.fit([_frames()]))
    video.build()
    sizes = {"text": 768, "video": video.dim, "audio": encoders["audio"].dim}
    fusion = _fusion(config.fusion, {m: encoders[m] if m != "text" else _Vector(size) for m, size in sizes.items()})
    assert numbers(video.network) == 4096 * 768
    assert numbers(video.network) + numbers(fusion) == parameters


def test_mult_gmu_has_the_published_parameters(run_config):
    """Count the published class without its encoders, residual block, classifier and unused projection of text."""
    sizes = {"text": 768, "video": 4096, "audio": 768, "image": 4096, "metadata": 312}
    encoders = {m: _Vector(size, m in ("text", "video", "audio")) for m, size in sizes.items()}
    with torch.device("meta"):
        fusion = _fusion(run_config("experiment=mult_gmu").fusion, encoders)
    assert numbers(fusion) == 672_471_552


def _fusion(config: PartConfig, encoders: Mapping[str, Any]) -> Fusion:
    return config.make(**config.target.arguments(encoders))


def _frames() -> Any:
    return np.zeros((2, 4096), np.float32)


class _Vector(NamedTuple):
    dim: int
    sequences: bool = False


def numbers(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())
