"""Check the framework's rules on every data set in conf/data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from hydra.utils import instantiate
from PIL import Image

from gmu_lightning.config.groups import choices_of, conf_folder
from gmu_lightning.data.dataset import DataSet
from gmu_lightning.data.store import Store
from gmu_lightning.movie import MODALITIES
from gmu_lightning.testing import check_data

from .moviescope_files import damage, write

CHECKED = {"files", "mmimdb", "moviescope", "planted"}


def data_of(choice: str, **changes) -> DataSet:
    node = yaml.safe_load((conf_folder() / "data" / f"{choice}.yaml").read_text())
    node.pop("defaults", None)
    node["token_budget"] = None
    return instantiate(node | changes, _convert_="all").data_set


def test_every_choice_is_checked_here():
    assert set(choices_of("data")) == CHECKED


def test_mmimdb_passes_the_shared_checks(raw, tmp_path):
    (raw / "dataset" / "0000002.json").write_text("{")
    (raw / "dataset" / "0000005.jpeg").unlink()
    listed = json.loads((raw / "split.json").read_text())
    offered = {"train": listed["train"], "val": listed["dev"], "test": listed["test"]}
    for modalities in (("text",), ("image", "text")):
        check_data(data_of("mmimdb", root=str(raw)), modalities, Store(tmp_path / "store"), offered)


@pytest.mark.parametrize(("layout", "modalities"), [("full", MODALITIES), ("teaching", ("video", "text", "audio"))])
def test_moviescope_passes_the_shared_checks(tmp_path, layout, modalities):
    root = write(tmp_path / "moviescope", layout)
    damage(root, 0.3, np.random.default_rng(0))
    lines = {split: (root / f"{split}.jsonl").read_text().splitlines() for split in ("train", "dev", "test")}
    listed = {split: [str(json.loads(line)["id"]) for line in found] for split, found in lines.items()}
    offered = {"train": listed["train"], "val": listed["dev"], "test": listed["test"]}
    check_data(data_of("moviescope", root=str(root)), modalities, Store(tmp_path / "store"), offered)


@pytest.mark.parametrize("kept", [True, False])
def test_planted_passes_the_shared_checks(tmp_path, kept):
    root = str(tmp_path / "planted") if kept else None
    check_data(data_of("planted", root=root, movies=24), ("text", "image"), Store(tmp_path / "store"))


def test_files_passes_the_shared_checks(tmp_path):
    (tmp_path / "posters").mkdir()
    rows = ["id,plot,genres,poster,year"]
    for n in range(30):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / "posters" / f"{n}.png")
        rows.append(f"m{n},plot {n},{'Drama|War' if n % 3 else 'Comedy'},posters/{n}.png,{1950 + n}")
    (tmp_path / "posters" / "7.png").unlink()
    table = tmp_path / "movies.csv"
    table.write_text("\n".join([*rows, "m3,again,Drama,,1950", ""]))
    check_data(data_of("files", root=str(table)), ("image", "text", "metadata"), Store(tmp_path / "store"))
