"""Runs on several devices: the same losses as on one, each movie scored once, in sweeps and after a kill."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from gmu_lightning.config.schema import RunConfig
from gmu_lightning.experiment import train
from gmu_lightning.experiment.build import DatasetCache
from gmu_lightning.run import Run

from .clean_forks import exit_code, started
from .shell import typed

ON_CPUS = ("trainer.accelerator=cpu", "trainer.strategy=ddp", "trainer.threads=1")
TWO = ("experiment=smoke", *ON_CPUS, "trainer.devices=2", "data.batch_size=8")
SIZE = 4  # movies in a batch of one process
KILLED = """
import os, signal
from pathlib import Path
import pytorch_lightning as pl

class Kill(pl.Callback):
    def on_train_batch_start(self, trainer, model, batch, index):
        if trainer.global_step == 4 and trainer.is_global_zero and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def take_part(configs: dict[Path, RunConfig], folders: dict[Path, Path], ranks: dict[str, str]) -> None:
    """Train runs one after the other, in {folder of the first process: folder of this one}."""
    os.environ.update(ranks)
    torch.set_num_threads(1)
    train.write_gates = lambda run: []
    for main, config in configs.items():
        run = Run(folders[main])
        run.begin(config.mapping, [])
        train.train(config, run, cache=DatasetCache(), continues=main)


@pytest.mark.heavy
@pytest.mark.parametrize(("world", "method"), [(2, "none"), (3, "none"), (2, "ogm_ge"), (2, "unimodal_loss")])
def test_processes_give_the_losses_of_one(settled, tmp_path, world, method):
    """Over every remainder of the number of movies by the number of an update; for balanced training over some."""
    sizes = range(SIZE * world * 2, SIZE * world * 3, 1 if method == "none" else 3)

    def config(movies: int, *words: str) -> RunConfig:
        limit = f"data.limit={movies}/{movies % 7 + 3}/{movies % 5 + 3}"
        return settled(
            "experiment=smoke", "trainer.precision=64-true", "trainer.max_epochs=4", *ON_CPUS, limit, f"training={method}", *words
        )

    several = (f"trainer.devices={world}", f"data.batch_size={SIZE}")
    alone = ("trainer.devices=1", "trainer.strategy=auto", f"data.batch_size={SIZE * world}")
    single = {tmp_path / f"{movies}-alone": config(movies, *alone) for movies in sizes}
    together = {tmp_path / f"{movies}": config(movies, *several) for movies in sizes}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    processes = [started(take_part, single, {folder: folder for folder in single}, {})]
    for rank in range(world):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        folders = {main: main if rank == 0 else main.with_name(f"{main.name}-{rank}") for main in together}
        processes.append(started(take_part, together, folders, {**group, **own}))
    assert [exit_code(process) for process in processes] == [0] * (world + 1)
    for movies in sizes:
        one, many = Run(tmp_path / f"{movies}-alone"), Run(tmp_path / f"{movies}")
        assert [row["step"] for row in many.history] == [row["step"] for row in one.history]
        losses = [[float(row[name]) for row in run.history for name in ("train/loss", "val/loss")] for run in (one, many)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-9), movies
        weights = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (one, many)]
        assert all(torch.allclose(weights[1][name], value, rtol=1e-7, atol=1e-9) for name, value in weights[0].items()), movies
        for split in ("val", "test"):
            assert many.predictions(split).ids == one.predictions(split).ids
            assert len(set(many.predictions(split).ids)) == many.metrics[f"{split}/movies"]
            assert np.allclose(many.predictions(split).logits, one.predictions(split).logits, atol=1e-7)


@pytest.fixture(scope="module")
def pair(tmp_path_factory, store) -> Run:
    """A run on two devices."""
    folder = tmp_path_factory.mktemp("pair")
    done = typed("train", *TWO, "hydra.run.dir=run", folder=folder, store=store)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.iterdir()] == ["run"]
    return Run(folder / "run")


@pytest.mark.heavy
def test_two_devices_score_every_test_movie_once(pair):
    assert pair.status["state"] == "finished"
    test = pair.predictions("test")
    assert len(set(test.ids)) == len(test.ids) == pair.metrics["test/movies"] == 10
    assert [row["step"] for row in pair.history] == ["3", "6"]  # 40 movies, 16 in an update


@pytest.mark.heavy
@pytest.mark.parametrize("launcher", ["basic", "stacked"])
def test_a_job_on_two_devices_is_a_group_of_processes(pair, tmp_path, store, launcher):
    words = (*TWO, "seed=1,2", f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep")
    done = typed("train", "-m", *words, folder=tmp_path, store=store)
    assert done.returncode == 0, done.stderr
    status = json.loads((tmp_path / "sweep/status.json").read_text())
    assert (status["state"], status["finished"]) == ("finished", 2)
    (first,) = (tmp_path / "sweep").glob("*seed1-*")
    assert Run(first).status["identity"] == pair.status["identity"]
    for split in ("val", "test"):
        assert np.array_equal(Run(first).predictions(split).logits, pair.predictions(split).logits)
    again = typed("train", "-m", *words, folder=tmp_path, store=store)
    assert (again.returncode, "test micro F1" in again.stdout.split("finished")[0].split("Verdict")[0]) == (0, False)


@pytest.mark.heavy
def test_a_job_that_fails_on_two_devices_costs_no_other(tmp_path, store):
    words = (*TWO, "optimizer.lr=1e30,0.01", "hydra/launcher=stacked", "hydra.sweep.dir=sweep")
    done = typed("train", "-m", *words, folder=tmp_path, store=store)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    status = json.loads((tmp_path / "sweep/status.json").read_text())
    assert (status["finished"], status["failed"]) == (1, 1)
    assert any("loss became" in str(job["why"]) for job in status["jobs"])


@pytest.mark.heavy
def test_a_killed_run_on_two_devices_ends_with_the_same_bits(pair, tmp_path, store):
    (tmp_path / "killed.py").write_text(KILLED)
    words = (*TWO, "trainer.save_every=0", "+callbacks.kill._target_=killed.Kill", "hydra.run.dir=run")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert typed("train", *words, folder=tmp_path, store=store, PYTHONPATH=path).returncode == -9
    done = typed("train", *words, folder=tmp_path, store=store, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert "run continues after 1 batches of epoch 1" in done.stderr
    run = Run(tmp_path / "run")
    for split in ("val", "test"):
        assert np.array_equal(run.predictions(split).logits, pair.predictions(split).logits)
    columns = [[row["train/loss"] for row in one.history] for one in (run, pair)]
    assert columns[0] == columns[1]
