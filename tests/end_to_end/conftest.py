"""Whole runs on sixty generated movies, in this process and on one thread; what several tests look at is trained once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from gmu_lightning.cli.command_line import escaped
from gmu_lightning.config.groups import conf_folder
from gmu_lightning.config.resolve import resolve
from gmu_lightning.config.schema import RunConfig
from gmu_lightning.data.planted import generate
from gmu_lightning.run import Run
from gmu_lightning.sweep.job import Job, perform, plain

from .networks import write_bert, write_resnet
from .shell import typed

SMOKE = ("experiment=smoke", "trainer.threads=1")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def settled(store) -> Callable[..., RunConfig]:
    """(overrides) -> the settled configuration, as the commands would make it."""

    def settle_composed(*overrides: str) -> RunConfig:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            given = [escaped(o) for o in (*overrides, f"store.dir={store}")]
            config = compose("train", given, return_hydra_config=True)
        return RunConfig.of(resolve(plain(config), dict(config.hydra.runtime.choices)))

    return settle_composed


@pytest.fixture(scope="session")
def job(settled, tmp_path_factory) -> Callable[..., Job]:
    """(overrides) -> a small job that has not been done, in a folder of its own."""

    def make(*overrides: str, preset: Sequence[str] = SMOKE, sweep: str | None = None) -> Job:
        given = [*preset, *overrides]
        return Job(settled(*given), given, str(tmp_path_factory.mktemp("run") / "run"), sweep)

    return make


@pytest.fixture(scope="session")
def train(job) -> Callable[..., Run]:
    """(overrides) -> a run that has just been trained."""

    def make(*overrides: str) -> Run:
        made = job(*overrides)
        perform(made)
        return made.run

    return make


@pytest.fixture(scope="session")
def smoke(store, tmp_path_factory) -> Run:
    """The smoke run, by the command itself: gated, text and image."""
    folder = tmp_path_factory.mktemp("smoke")
    done = typed("train", *SMOKE, "hydra.run.dir=run", folder=folder, store=store)
    assert done.returncode == 0, done.stderr
    return Run(folder / "run")


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """The smoke run's sixty movies as raw files: to be copied, never changed."""
    return generate(tmp_path_factory.mktemp("raw") / "planted", movies=60, seed=0)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, raw) -> tuple[str, ...]:
    """The overrides that choose a tiny BERT and a narrow ResNet, weights and all, on disk."""
    text, image = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("resnet")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_bert(text, [" ".join(json.loads(path.read_text())["plot"]) for path in sorted(raw.glob("dataset/*.json"))])
        write_resnet(image)
    return ("encoder/text=minilm", f"encoder.text.name={text}", "encoder/image=resnet50", f"encoder.image.name={image}")


class RawCopy:
    """Raw files that a test may change."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.ids: dict[str, list[str]] = json.loads((folder / "split.json").read_text())
        self.genres: list[str] = list(json.loads((folder / "genres.json").read_text()))

    def change(self, movie: str, **values: Any) -> None:
        """Set keys of a movie's record."""
        path = self.folder / "dataset" / f"{movie}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    def record(self, movie: str) -> dict[str, Any]:
        return json.loads((self.folder / "dataset" / f"{movie}.json").read_text())

    def flip(self, *splits: str) -> None:
        """Every movie of these splits gets the genres it does not have."""
        for movie in (movie for split in splits for movie in self.ids[split]):
            had = self.record(movie)["genres"]
            self.change(movie, genres=[genre for genre in self.genres if genre not in had])

    def poster(self, movie: str) -> Path:
        return self.folder / "dataset" / f"{movie}.jpeg"


@pytest.fixture
def copy(raw, tmp_path) -> RawCopy:
    shutil.copytree(raw, tmp_path / "copy")
    return RawCopy(tmp_path / "copy")
