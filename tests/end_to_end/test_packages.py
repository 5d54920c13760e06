"""A separate package with a fusion, an encoder, a data set and a loss: installed, found, checked, swept, evaluated, compared."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gmu_lightning.run import Run, runs_under

from .shell import PATIENCE, SMOKE, environment, last_line, typed

ROOT = Path(__file__).parents[2]
PARTS = ("data=invented", "modalities=text+metadata", "encoder/text=letters", "loss=focal", "trainer.max_epochs=1")
pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    """PYTHONPATH with the folder into which pip installed the example package."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "examples/my_package", folder / "my_package")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--target", str(folder / "site"), str(folder / "my_package")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return os.pathsep.join([str(folder / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(scope="module")
def sweep(path, store, tmp_path_factory) -> Path:
    """The folder of a sweep of the package's parts."""
    folder = tmp_path_factory.mktemp("home")
    words = ("-m", *PARTS, "fusion=weighted,mean", "seed=1,2", "hydra/launcher=stacked", "hydra.sweep.dir=sweep")
    done = typed("train", *words, folder=folder, store=store, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    return folder / "sweep"


@pytest.fixture(scope="module")
def run(sweep) -> Run:
    """A run of the package's fusion."""
    return next(run for run in runs_under(sweep) if run.config["choices"]["fusion"] == "weighted")


@pytest.mark.parametrize(
    ("group", "choice", "line"),
    [
        ("fusion", "weighted", "The sum of the projected modalities"),
        ("encoder/text", "letters", "From scratch: one layer over the counts"),
        ("data", "invented", "Invented movies: a plot of a few words"),
        ("loss", "focal", "Focal loss (Lin et al. 2017"),
    ],
)
def test_info_lists_every_part(path, tmp_path, group, choice, line):
    done = typed("info", f"group={group}", folder=tmp_path, store=None, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    found = next(text for text in done.stdout.splitlines() if text.startswith(f"  {choice} "))
    assert line in found
    assert "[the package my-parts]" in " ".join(done.stdout.split())


def test_errors_name_the_nearest_part(path, tmp_path):
    done = typed("train", "fusion=weigthed", folder=tmp_path, store=None, PYTHONPATH=path)
    assert done.returncode == 1 and last_line(done.stderr).startswith("fusion=weigthed is no choice: did you mean weighted?")
    done = typed("train", "fusion=weighted", "fusion.dimm=3", folder=tmp_path, store=None, PYTHONPATH=path)
    assert done.returncode == 1 and "did you mean fusion.dim " in last_line(done.stderr)


def test_help_shows_a_part_and_its_options(path, tmp_path):
    done = typed("train", "--help", "data=invented", "encoder/text=letters", folder=tmp_path, store=None, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "data.movies=60 of all splits together" in words
    assert "encoder.text.freeze=none" in words  # of a base in this repository
    assert ", weighted" in words


@pytest.mark.parametrize(
    "line",
    [
        "from my_parts.fusions import Weighted; testing.check_fusion(Weighted)",
        "from my_parts.encoders import Letters; testing.check_encoder(Letters, ['A long war film.', 'Love.'])",
        "from my_parts.data import Invented; from gmu_lightning.data.store import Store; "
        "testing.check_data(Invented(root=None), ['text', 'metadata'], Store('store'))",
    ],
)
def test_every_part_passes_its_check(path, tmp_path, line):
    words = [sys.executable, "-c", f"from gmu_lightning import testing; {line}"]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment(None, PYTHONPATH=path), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_sweep_trains_the_parts_and_records_the_package(sweep, run):
    status = json.loads((sweep / "status.json").read_text())
    assert (status["state"], status["finished"]) == ("finished", 4)
    assert run.config["fusion"]["_target_"] == "my_parts.fusions.Weighted"
    assert run.config["loss"]["gamma"] == 2.0
    assert "config_dir" not in run.config
    assert run.environment["packages"]["my-parts"] == "0.1"


def test_a_run_is_evaluated_and_compared_from_another_folder(path, sweep, run, store, tmp_path):
    done = typed("evaluate", f"run={run.folder}", folder=tmp_path, store=store, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    (scores,) = run.folder.glob("evaluate/*/metrics.json")
    assert json.loads(scores.read_text())["test/f1_micro"] == pytest.approx(run.metrics["test/f1_micro"])
    done = typed("compare", f"runs={sweep}", "output=board", folder=tmp_path, store=None, PYTHONPATH=path)
    assert done.returncode == 0 and "no movies" not in done.stderr, done.stderr
    assert "weighted" in (tmp_path / "board/leaderboard.tex").read_text()


def test_a_run_predicts_new_movies_from_another_folder(path, run, tmp_path):
    (tmp_path / "new.csv").write_text("id,plot,year\na,a tale of jazz,1990\nb,a tale of crypt,\n")
    done = typed("predict", f"run={run.folder}", "input=new.csv", "output=out.csv", folder=tmp_path, store=None, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["id"] for row in found] == ["a", "b"]
    assert [row["present/metadata"] for row in found] == ["True", "False"]
    assert all(float(row["prob/Comedy"]) > 0 and not row["problem"] for row in found)


def test_without_the_package_a_run_is_refused(run, store, tmp_path):
    done = typed("evaluate", f"run={run.folder}", folder=tmp_path, store=store)
    assert done.returncode == 1
    assert "names the class my_parts." in last_line(done.stderr) and "install its package" in last_line(done.stderr)


def test_the_search_path_equals_the_entry_point(path, run, store, tmp_path):
    folder = next(Path(place) for place in path.split(os.pathsep)) / "my_parts/conf"
    there = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    source = f"hydra.searchpath=[file://{folder}]"
    done = typed("train", source, "fusion=weigthed", folder=tmp_path, store=None, PYTHONPATH=there)
    assert last_line(done.stderr).startswith("fusion=weigthed is no choice: did you mean weighted?")
    done = typed("info", source, "group=fusion", folder=tmp_path, store=None, PYTHONPATH=there)
    assert "weighted" in done.stdout
    done = typed("train", source, "--help", folder=tmp_path, store=None, PYTHONPATH=there)
    assert ", weighted" in " ".join(done.stdout.split())


def test_doctor_imports_every_class_of_the_package(path, store, tmp_path):
    done = typed("doctor", folder=tmp_path, store=store, PYTHONPATH=path)
    assert "choices" in done.stdout and "4 from the package my-parts 0.1" in done.stdout
    wrong = [line for line in done.stdout.splitlines() if line.startswith("  wrong")]
    assert (done.returncode == 1) is bool(wrong)
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


def test_a_broken_package_ends_every_command_but_doctor(path, store, tmp_path):
    site = tmp_path / "site"
    shutil.copytree(path.split(os.pathsep)[0], site)
    shutil.rmtree(site / "my_parts/conf")
    broken = os.pathsep.join([str(site), *path.split(os.pathsep)[1:]])
    for words in (("train", *SMOKE), ("info",), ("compare", "runs=x"), ("train", "--help")):
        done = typed(*words, folder=tmp_path, store=store, PYTHONPATH=broken)
        assert done.returncode == 1
        assert last_line(done.stderr).startswith("the package my-parts declares the entry point gmu_lightning.conf: my_parts =")
        assert "Traceback" not in done.stderr
    done = typed("doctor", folder=tmp_path, store=store, PYTHONPATH=broken)
    assert done.returncode == 1 and "the package my-parts declares" in " ".join(done.stdout.split())
    assert "choices" in last_line(done.stderr)
