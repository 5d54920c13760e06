"""Sweeps in arrays of Slurm workers, on a stand-in for Slurm and on a real one."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from gmu_lightning.movie import UserError
from gmu_lightning.sweep.slurm_plan import Plan

from .forked import forks
from .shell import PATIENCE, SMOKE, environment, last_line, typed
from .slurm_clusters import Real, StandIn, until
from .test_survival import SEEDS, WHY, Folder

SLURM = ("-m", "hydra/launcher=slurm", *SMOKE)


def _typed(*arguments: str, folder: Path, store: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run train in a fork, with variables too."""
    return forks().run(["gmu_lightning.train", *arguments], folder, environment(store, **variables), PATIENCE)


def test_a_check_prints_the_file_without_sbatch(store, tmp_path):
    said = _typed(*SLURM, "seed=1,2,3", "check=true", "hydra.sweep.dir=mine", folder=tmp_path, store=store, PATH="/usr/bin:/bin")
    assert said.returncode == 0, said.stderr
    assert "#SBATCH --array=0-2%3" in said.stdout and f"{tmp_path}/mine/slurm/PLAN.json" in said.stdout
    assert said.stdout.splitlines()[-1].startswith("3 of 3 jobs would run")
    assert not any(tmp_path.iterdir())


def test_without_sbatch_one_sentence_says_what_to_do(store, tmp_path):
    (tmp_path / "empty").mkdir()
    said = _typed(*SLURM, "seed=1,2,3", "hydra.sweep.dir=s", folder=tmp_path, store=store, PATH=str(tmp_path / "empty"))
    assert said.returncode == 1
    assert last_line(said.stderr) == (
        "hydra/launcher=slurm finds no sbatch on this machine: type the command on a login node of the cluster, or choose "
        "hydra/launcher=stacked"
    )


@pytest.fixture
def stand_in(tmp_path):
    made = StandIn(tmp_path / "cluster")
    yield made
    made.end()


def test_a_worker_does_the_jobs_and_writes_the_leaderboard(store, tmp_path, stand_in):
    words = (*SLURM, "seed=1,2,3", "hydra.sweep.dir=s", "hydra.launcher.workers=1")
    said = _typed(*words, folder=tmp_path, store=store, **stand_in.variables)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[0] == f"array 7: 3 jobs, 1 worker; logs in {tmp_path}/s/slurm; scancel 7 ends it"
    stand_in.wait()
    assert Counter(re.findall(r"seed(\d)-\w+  test micro F1", stand_in.logs(tmp_path / "s"))) == Counter("123")
    status = json.loads((tmp_path / "s/status.json").read_text())
    assert (status["state"], status["finished"]) == ("finished", 3)
    assert (tmp_path / "s/leaderboard.csv").exists() and (tmp_path / "s/report.html").exists()
    (plan,) = (tmp_path / "s/slurm").glob("plan-*.json")
    assert all(job.folder.endswith(f"-seed{job.config.seed}-{job.config.identity}") for job in Plan.read(plan).jobs)
    plan.write_text(plan.read_text().replace("gmu_lightning.fusion.", "my_code."))
    with pytest.raises(UserError, match=r"plan-\w+\.json names the class my_code\.\w+, which is not one of this package's"):
        Plan.read(plan)
    again = _typed(*words, folder=tmp_path, store=store, **stand_in.variables)
    assert again.returncode == 0 and "slurm: no job is left to submit" in again.stderr
    assert (tmp_path / "cluster/arrays").read_text() == "7\n"


@pytest.fixture(params=["stand-in", "real"])
def cluster(request, tmp_path_factory):
    made = {"stand-in": StandIn, "real": Real}[request.param](tmp_path_factory.mktemp("c") / "c")
    yield made
    made.end()


# Seed 1 takes six seconds, so that it can be preempted.
SLOW = """
    def on_train_epoch_end(self, trainer, model):
        time.sleep(1.5 * (model.about["config"]["seed"] == 1))
"""
EPOCHS = "trainer.max_epochs=4"


def _folder(path: Path, store: Path, *launcher: str) -> Folder:
    folder = Folder(path, store, *launcher, "--config-dir", str(path), EPOCHS)
    (path / "odd.py").write_text((path / "odd.py").read_text() + SLOW)
    return folder


@pytest.mark.heavy
def test_preemption_and_deaths_cost_only_the_jobs_that_fail(cluster, store, tmp_path, tmp_path_factory, monkeypatch):
    for name, value in cluster.variables.items():
        monkeypatch.setenv(name, value)
    whole = _folder(tmp_path_factory.mktemp("whole"), store, "hydra/launcher=stacked")
    (whole.path / "healed").touch()
    assert whole.end(whole.start())[0] == 0
    folder = _folder(tmp_path, store, "hydra/launcher=slurm", "hydra.launcher.workers=1")
    sweep = tmp_path / "sweep"

    assert folder.end(folder.start())[0] == 0
    until(lambda: any(sweep.glob("*seed1-*/checkpoints/last.ckpt")))
    cluster.preempt()
    assert folder.end(folder.start())[0] == 0  # a second array shares the folder
    compared = typed("compare", f"runs={sweep}", folder=tmp_path, store=store)
    cluster.wait()

    logs = cluster.logs(sweep)
    assert re.search(r"seed1-\w+ continues after \d", logs), logs
    assert folder.seeds("failed") == set(WHY) and folder.seeds("finished") == set(SEEDS) - set(WHY)
    assert {int(re.search(r"seed(\d+)", job["folder"])[1]): job["why"] for job in folder.status["jobs"] if job["why"]} == WHY
    assert Counter(re.findall(r"seed(\d+)-\w+  test micro F1", logs)) == Counter(map(str, set(SEEDS) - set(WHY)))
    assert compared.returncode in (0, 1) and "Traceback" not in compared.stderr

    (tmp_path / "healed").touch()
    code, err = folder.end(folder.start("retry=failed"))
    assert code == 0 and ": 4 jobs, 1 worker;" in folder.out, err
    cluster.wait()
    assert Counter(re.findall(r"seed(\d+)-\w+  test micro F1", cluster.logs(sweep))) == Counter(map(str, SEEDS))
    assert folder.board() == whole.board()
    assert "Traceback" not in cluster.logs(sweep)
