"""Every hostile file is refused in one sentence: its code does not run, and it writes only in its place."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.files.inputs import read_inputs
from gmu_lightning.data.mmimdb.dataset import Limits, unpacked
from gmu_lightning.data.mmimdb.layouts import Hdf5Layout, RawLayout
from gmu_lightning.data.readers import tables
from gmu_lightning.data.readers.arrays import read_array, read_ids
from gmu_lightning.data.store import Store
from gmu_lightning.encoders.image import TimmImage
from gmu_lightning.encoders.posters import PosterPreparation
from gmu_lightning.encoders.text import HuggingFaceText
from gmu_lightning.encoders.trailers import decoder_pool
from gmu_lightning.movie import BadContent, UserError
from gmu_lightning.report.page.movies import thumbnail
from gmu_lightning.run import Run
from gmu_lightning.run_files.arrays import checkpoint
from gmu_lightning.run_files.exported import read_export
from gmu_lightning.sweep.rerun import checked

from . import hostile_data, hostile_files
from .hostile_files import CANARY, Case

CASES = [*hostile_files.CASES, *hostile_data.CASES]

PATIENCE = 120  # seconds


def picture(path: Path) -> None:
    assert thumbnail(path) is None and thumbnail(path.read_bytes()) is None
    PosterPreparation((16, 16)).store(path)


def movies(path: Path) -> None:
    """Read a folder of movies. A record that cannot be read is in the audit."""
    audit = Audit()
    list(RawLayout(path).read("train", audit))
    (problem,) = audit.problems
    assert problem.id == "1"
    raise UserError(problem.detail)


def archive(path: Path) -> None:
    unpacked(path, Store(path.parent / "store"), Limits(floor=1_000_000, ratio=2))


def network(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"x")
    HuggingFaceText(str(path))._config()


def timm(path: Path) -> None:
    torch.save({}, path / "pytorch_model.bin")
    _ = TimmImage(str(path)).preparation


READERS: dict[str, Callable[[Path], Any]] = {
    "array": read_array,
    "ids": read_ids,
    "checkpoint": checkpoint,
    "run": lambda path: checked(Run(path), None),
    "archive": archive,
    "picture": picture,
    "clip": lambda path: list(decoder_pool.frames(path, 1.0, 5.0)),
    "sound": lambda path: list(decoder_pool.sound(path, 12_000, 5.0)),
    "table": lambda path: read_inputs(str(path)),
    "movies": movies,
    "hdf5": Hdf5Layout,
    "export": read_export,
    "network": network,
    "timm": timm,
}


@pytest.fixture(scope="module", autouse=True)
def decoders():
    yield
    decoder_pool.release()


@pytest.fixture
def patience():
    """End a test that hangs."""

    def late(*_: object) -> None:
        raise TimeoutError("the reader hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_there_are_enough_cases():
    assert len({case.id for case in CASES}) == len(CASES) >= 60
    assert set(READERS) == {case.reads for case in CASES}


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_hostile_file_is_refused(case: Case, tmp_path: Path, monkeypatch):
    place = tmp_path / "a/b/c"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr(tables, "MOST_VALUES", 10**6)
    case.write(place / case.name)
    assert not list(tmp_path.rglob(CANARY))
    with pytest.raises((UserError, BadContent)) as refused:
        READERS[case.reads](place / case.name)
    assert case.says in str(refused.value) and "\n" not in str(refused.value)
    assert not list(tmp_path.rglob(CANARY))
