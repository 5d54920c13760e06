"""Small data sets on disk, and an empty store, for each test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from gmu_lightning.data.store import Store

IDS = {"train": ["0000001", "0000002", "0000003"], "dev": ["0000004"], "test": ["0000005", "0000006"]}
GENRES = {"0000001": ["Drama", "War"], "0000002": ["Drama"], "0000003": ["Comedy"], "0000004": ["Comedy"], "0000005": ["War"]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def write_raw() -> Callable[..., Path]:
    """Return a function that writes six sound movies in MM-IMDb's raw layout to a folder."""

    def write(folder: Path, ids: dict[str, list[str]] = IDS) -> Path:
        (folder / "dataset").mkdir(parents=True)
        (folder / "split.json").write_text(json.dumps(ids))
        for n, movie in enumerate(sorted({movie for split in ids.values() for movie in split})):
            record = {"plot": [f"Movie {movie}.", f"The long plot of {movie}."], "genres": GENRES.get(movie, ["Drama"])}
            (folder / "dataset" / f"{movie}.json").write_text(json.dumps(record))
            Image.new("RGB", (4, 6), (40 * n, 0, 0)).save(folder / "dataset" / f"{movie}.jpeg")
        return folder

    return write


@pytest.fixture
def raw(tmp_path: Path, write_raw: Callable[..., Path]) -> Path:
    """Return the folder of six sound movies: three of train, one of dev, two of test."""
    return write_raw(tmp_path / "mmimdb")
