"""hydra/launcher=stacked: the same runs as one by one, from workers that last and from stacks of seeds."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from .shell import typed
from .test_sweeps import KILLER, OFFLINE, interrupt, started, wait_for
from .wandb_offline import read_offline_run

FROZEN = (
    *("data=planted", "data.movies=120", "data.modalities=video+audio", "modalities=video+audio", "fusion.dim=16"),
    *("trainer.max_epochs=8", "trainer.threads=1", "encoder.audio.dropout=0", "optimizer.lr=0.05", "data.batch_size=16"),
)
STACKED = "hydra/launcher=stacked"
TIMES = ("seconds/", "movies_per_second", "peak_memory_mb")


class Sweep(NamedTuple):
    """A sweep's folder, exit code and output."""

    folder: Path
    code: int
    err: str

    @property
    def status(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        return loaded

    def runs(self) -> dict[str, Path]:
        return {path.parent.name: path.parent for path in sorted(self.folder.glob("*/metrics.json"))}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stacked")
    (folder / "killer.py").write_text(KILLER)
    return folder


@pytest.fixture(scope="module")
def sweep(home: Path) -> Callable[..., Sweep]:
    def run(name: str, *arguments: str) -> Sweep:
        path = os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")])
        target = f"hydra.sweep.dir={name}"
        said = typed("train", "-m", *arguments, target, folder=home, store=home / "store", PYTHONPATH=path)
        return Sweep(home / name, said.returncode, said.stderr)

    return run


CROSS = (
    *FROZEN,
    "fusion=gmu_original,mean",
    "fusion.bias=false",
    "seed=1,2,3",
    "callbacks.early_stopping.patience=1",
    "callbacks=early_stopping",
)


@pytest.fixture(scope="module")
def one_by_one(sweep: Callable[..., Sweep]) -> Sweep:
    return sweep("single", *CROSS)


@pytest.fixture(scope="module")
def workers(sweep: Callable[..., Sweep]) -> Sweep:
    return sweep("workers", *CROSS, STACKED)


@pytest.fixture(scope="module")
def stacks(sweep: Callable[..., Sweep]) -> Sweep:
    return sweep("stacks", *CROSS, STACKED, "hydra.launcher.how=stacks", *OFFLINE)


def metrics(run: Path) -> dict[str, float]:
    loaded: dict[str, float] = json.loads((run / "metrics.json").read_text())
    return {name: value for name, value in loaded.items() if not name.startswith(TIMES)}


def history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.heavy
@pytest.mark.parametrize("how", ["workers", "stacks"])
def test_each_run_is_trained_as_under_a_trainer(one_by_one, how, request):
    stacks = request.getfixturevalue(how)
    assert len(stacks.runs()) == 6
    assert len(same_epochs(one_by_one, stacks)) > 1  # early stopping ended some before the others


@pytest.mark.heavy
def test_balanced_runs_are_trained_as_under_a_trainer(sweep):
    words = (*FROZEN, "trainer.max_epochs=3", "training=ogm_ge,unimodal_loss", "fusion=gmu_softmax", "seed=1,2")
    words += ("trainer.gradient_clip_val=0.5", "encoder.audio.dropout=0.3")
    stacks = sweep("balanced_stacks", *words, STACKED, "hydra.launcher.how=stacks")
    assert "one by one" not in stacks.err
    same_epochs(sweep("balanced", *words), stacks)
    losses = [history(run)[0]["train/loss"] for run in stacks.runs().values()]
    assert len(set(losses)) == len(losses) == 4


def same_epochs(one_by_one: Sweep, stacks: Sweep) -> set[int]:
    """Check that two sweeps trained the same runs, and return their numbers of epochs."""
    assert (one_by_one.code, stacks.code) == (0, 0), stacks.err
    assert one_by_one.runs().keys() == stacks.runs().keys()
    stopped = set()
    for name, run in one_by_one.runs().items():
        alone, stacked = history(run), history(stacks.runs()[name])
        assert [row["epoch"] for row in stacked] == [row["epoch"] for row in alone]
        assert [row["step"] for row in stacked] == [row["step"] for row in alone]
        assert [row["lr"] for row in stacked] == [row["lr"] for row in alone]
        for ours, theirs in zip(stacked, alone, strict=True):
            # Another step would show at once. At twice this rate, rounding grows from epoch to epoch.
            same = pytest.approx(float(theirs["train/loss"]), rel=1e-6)
            assert float(ours["train/loss"]) == same
        assert metrics(stacks.runs()[name]) == pytest.approx(metrics(run), abs=5e-3)
        stopped.add(len(alone))
    return stopped


@pytest.mark.heavy
@pytest.mark.parametrize("how", ["workers", "stacks"])
def test_checkpoints_are_whole(how, request):
    for run in request.getfixturevalue(how).runs().values():
        best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
        last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
        assert best["epoch"] == json.loads((run / "metrics.json").read_text())["best_epoch"]
        assert last["epoch"] == len(history(run)) - 1
        assert best["state_dict"].keys() == last["state_dict"].keys() and last["optimizer_states"]
        assert best["gmu_lightning"]["modalities"] == ["video", "audio"]


@pytest.mark.heavy
@pytest.mark.parametrize("how", ["workers", "stacks"])
def test_a_stacked_run_evaluates_to_its_own_scores(how, home, request):
    run = next(iter(request.getfixturevalue(how).runs().values()))
    said = typed("evaluate", f"run={run}", folder=home, store=home / "store")
    assert said.returncode == 0, said.stderr
    (found,) = run.glob("evaluate/*/metrics.json")
    own = metrics(run)
    for name, value in json.loads(found.read_text()).items():
        if name in own and "@" not in name:
            assert value == pytest.approx(own[name], abs=1e-6), name


@pytest.mark.heavy
def test_every_run_of_a_stack_has_a_wandb_run_of_its_own(stacks):
    for run in stacks.runs().values():
        (folder,) = run.glob("wandb/offline-run-*")
        logged = read_offline_run(folder)
        assert logged.summary["test/f1_micro"] == pytest.approx(json.loads((run / "metrics.json").read_text())["test/f1_micro"])
        assert len([row for row in logged.history if "train/loss" in row]) == len(history(run))


@pytest.mark.heavy
def test_a_worker_that_dies_costs_the_job_it_was_at(sweep):
    kill = ("+callbacks.kill._target_=killer.Kill", "+callbacks.kill.seed=2")
    died = sweep("died", *FROZEN, "trainer.max_epochs=1", "seed=1,2,3,4", STACKED, "hydra.launcher.workers=1", *kill)
    assert died.code == 1
    assert (died.status["finished"], died.status["failed"]) == (3, 1)
    (failed,) = [job for job in died.status["jobs"] if job["state"] == "failed"]
    assert "seed2" in failed["folder"] and "SIGKILL" in failed["why"]


@pytest.mark.heavy
def test_jobs_that_cannot_be_stacked_train_one_by_one(sweep):
    trained = ("encoder.audio.freeze=none", "encoder.audio.dim=8", "trainer.max_epochs=1")
    left = sweep("left", *FROZEN, *trained, "seed=1,2", STACKED, "hydra.launcher.how=stacks")
    assert left.code == 0, left.err
    assert left.status["finished"] == 2
    assert "one by one, since an encoder is trained" in left.err


@pytest.mark.heavy
def test_a_pretrained_encoder_that_is_trained_gets_every_core(sweep):
    """The job fails, because no weights are found; the launcher has sorted it by then."""
    away = (
        "encoder.text.name=/nowhere/minilm",
        "encoder.text.freeze=none",
        "encoder/text=minilm",
        "modalities=text",
        "fusion=none",
    )
    large = sweep("large", "data=planted", "data.movies=60", *away, "seed=1", STACKED)
    assert large.code == 1
    assert "stacked: 1 job trains a pretrained encoder: one by one, with every core" in large.err
    assert "/nowhere/minilm" in large.status["jobs"][0]["why"]


@pytest.mark.parametrize(
    ("each", "shares"), [(1, [{0}, {1}, {2}, {3}, {4}]), (2, [{0, 1}, {2, 3, 4}]), (5, [{0, 1, 2, 3, 4}]), (9, [{0, 1, 2, 3, 4}])]
)
def test_workers_of_several_threads_share_the_cores(each, shares):
    from gmu_lightning.sweep.workers import shares_of

    assert shares_of([0, 1, 2, 3, 4], each) == shares


@pytest.mark.heavy
def test_ctrl_c_ends_the_workers(home, tmp_path):
    folder = tmp_path / "cut"

    def one_trains() -> bool:
        return any(path.stat().st_size for path in folder.glob("*/history.csv"))

    arguments = (*FROZEN, "trainer.max_epochs=1000000", "seed=1,2", STACKED, "hydra.sweep.dir=cut")
    with started(tmp_path, home, "-m", *arguments) as process:
        wait_for(one_trains, process)
        interrupt(process)
    jobs = json.loads((folder / "status.json").read_text())["jobs"]
    assert {(job["state"], job["why"]) for job in jobs} == {("interrupted", "interrupted")}


def test_a_diverging_seed_leaves_its_stack_intact(settled, tmp_path, monkeypatch, capsys):

    from gmu_lightning.experiment.build import DatasetCache
    from gmu_lightning.experiment.fast_loop import SeedStack
    from gmu_lightning.run import Run
    from gmu_lightning.sweep.job import Job, perform_stacked

    losses = SeedStack.losses
    monkeypatch.setattr(SeedStack, "losses", lambda self, *at: losses(self, *at) * torch.tensor([1.0, float("nan"), 1.0]))
    jobs = []
    for seed in (1, 2, 3):
        config = settled(*FROZEN, "trainer.max_epochs=2", f"seed={seed}", f"data.root={tmp_path / 'planted'}")
        jobs.append(Job(config, [], str(tmp_path / f"seed{seed}"), "sweep"))
    perform_stacked(jobs, DatasetCache())
    states = [Run(job.folder).status for job in jobs]
    assert [status["state"] for status in states] == ["finished", "failed", "finished"]
    assert states[1]["why"].startswith("the training loss became nan in epoch 0")


def test_all_columns_of_the_valid_jobs_are_read_in_advance(settled, tmp_path, capsys):
    """The first job of each key is invalid, and one valid job lacks a modality that the others have."""
    from gmu_lightning.experiment.build import DatasetCache, data_key
    from gmu_lightning.sweep.job import Job
    from gmu_lightning.sweep.launcher import warm

    def job(*words: str) -> Job:
        config = settled(*FROZEN, f"data.root={tmp_path / 'planted'}", *words)
        return Job(config, [], str(tmp_path / "-".join(words)), "sweep")

    cache = DatasetCache()
    away = ("encoder/video=trailer", "encoder.video.preparation.name=/nowhere/weights")
    broken = job("fusion=mean", *away)
    valid = [job("fusion=none", "modalities=audio"), job("fusion=mean")]
    jobs = [job("fusion=none"), job("fusion=mean", "modalities=audio"), broken, *valid]
    warmed = warm(jobs, cache)
    assert set(warmed.skipped) == {jobs[0].folder, jobs[1].folder}
    assert warmed.cuda is torch.cuda.is_available()
    assert set(cache._known) == {data_key(one.config) for one in valid}
    assert "not read in advance: " in capsys.readouterr().err


def test_a_worker_that_dies_as_it_reads_gives_a_warning(monkeypatch, caplog):
    from gmu_lightning.sweep import launcher
    from gmu_lightning.sweep.job import Job
    from gmu_lightning.sweep.session import Session

    asked = []

    class Dead(launcher.Worker):
        def do(self, task: launcher.Task) -> None:
            asked.append(task.work)
            self.exit_code = -9

    monkeypatch.setattr(launcher, "Worker", Dead)
    job = Job(SimpleNamespace(fine_tuned=[], trainer=SimpleNamespace(threads=1)), [], "", "sweep")
    stacked = launcher.Stacked(workers=1)
    stacked.session = Session()
    stacked.run(None, [job])
    assert asked == [launcher.warm, launcher.perform_stacked]
    assert "nothing was read in advance, for its process was ended by SIGKILL, perhaps for want of memory" in caplog.text


def test_an_invalid_number_of_workers_ends_in_a_sentence(sweep):
    failed = sweep("workers-abc", *FROZEN, STACKED, "hydra.launcher.workers=abc")
    assert failed.code == 1
    assert failed.err.splitlines()[-1].startswith("hydra.launcher.workers=abc is not possible: give a whole number from 1 to")


@pytest.mark.heavy
def test_stacked_training_of_encoders_equals_single_runs(sweep):
    small = ("experiment=smoke", "trainer.threads=1", "seed=1,2")
    alone, lasting = sweep("smoke", *small), sweep("smoke-stacked", *small, STACKED)
    assert lasting.code == 0, lasting.err
    for name, run in alone.runs().items():
        assert metrics(lasting.runs()[name]) == metrics(run)
