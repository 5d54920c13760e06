"""A user's own classes in the folder of --config-dir: trained, swept, evaluated and compared from any folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from gmu_lightning.run import Run

from .shell import PATIENCE, SMOKE, last_line, typed
from .test_hostile_runs import forked

MODULE = """
import os
from subprocess import Popen

from gmu_lightning.fusion import Mean


class MyFusion(Mean):
    def __init__(self, sizes, dim=8):
        super().__init__(sizes, dim)


class NoFusion:
    def __init__(self, sizes=None):
        open("touched", "w").close()
"""
YAMLS = {
    "my_fusion": "my_parts.MyFusion",
    "no_module": "my_part.MyFusion",
    "no_class": "my_parts.MyFusoin",
    "no_python": "broken.MyFusion",
    "no_fusion": "my_parts.NoFusion",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder that holds the user's folder `own parts`."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "own parts/fusion").mkdir(parents=True)
    (folder / "own parts/my_parts.py").write_text(MODULE)
    (folder / "own parts/broken.py").write_text("class MyFusion(:\n")
    for choice, target in YAMLS.items():
        (folder / f"own parts/fusion/{choice}.yaml").write_text(f"_target_: {target}\n_partial_: true\n")
    (folder / "own parts/fusion/no_yaml.yaml").write_text("_target_: [\n")
    return folder


@pytest.fixture(scope="module")
def run(home, store) -> Run:
    """A run of the own fusion. Its preset sets `fusion.dim`, which the fusion's YAML lacks."""
    words = ("--config-dir", "own parts", *SMOKE, "fusion=my_fusion", "hydra.run.dir=run")
    done = typed("train", *words, folder=home, store=store)
    assert done.returncode == 0, done.stderr
    return Run(home / "run")


@pytest.fixture
def command(home, run, store, tmp_path):
    """(name, *words) -> exit code and output of a command in another folder."""

    def do(name: str, *words: str) -> tuple[int | None, str]:
        code = forked(name, [*words, *([f"store.dir={store}"] if name == "evaluate" else [])], tmp_path, PATIENCE)
        return code, "".join((tmp_path / stream).read_text() for stream in ("out", "err"))

    return do


def test_the_folder_is_recorded_and_is_no_identity(run, home):
    assert run.config["config_dir"] == str(home / "own parts")
    assert run.config["fusion"] == {"_target_": "my_parts.MyFusion", "_partial_": True}


def test_evaluate_asks_for_the_folder(command, run, home):
    code, text = command("evaluate", f"run={run.folder}")
    assert code == 1
    assert last_line(text).endswith(f"(the run was trained with --config-dir '{home / 'own parts'}')")


def test_evaluate_with_the_folder_scores_the_run(command, run, home):
    code, text = command("evaluate", "--config-dir", str(home / "own parts"), f"run={run.folder}")
    assert code == 0, text
    (scores,) = run.folder.glob("evaluate/*/metrics.json")
    assert json.loads(scores.read_text())["test/f1_micro"] == pytest.approx(run.metrics["test/f1_micro"])


def test_compare_prints_the_folder_and_shows_movies(command, run, home, tmp_path):
    code, text = command("compare", f"runs={run.folder}", "output=board")
    assert code == 0 and "no movies" not in text
    page = (tmp_path / "board/report.html").read_text().replace("&#39;", "'")
    assert f"gmu_lightning.train --config-dir '{home / 'own parts'}' " in page


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("os.system", "is not defined in a module of --config-dir"),
        ("my_parts.Popen", "is not defined in a module of --config-dir"),
        ("my_parts.os.system", "is not defined in a module of --config-dir"),
        ("my_parts.NoFusion", "is no subclass of gmu_lightning.fusion.base.Fusion"),
    ],
)
@pytest.mark.parametrize("part", ["fusion", "encoder", "data"])
def test_a_hostile_run_names_only_parts_of_the_folder(command, run, home, tmp_path, target, sentence, part):
    hostile = Run(shutil.copytree(run.folder, tmp_path / "hostile"))
    config = run.config
    node = config["encoder"]["text"] if part == "encoder" else config[part]
    node |= {"_target_": target, "args": ["touch", "touched"], "command": "touch touched"}
    (hostile / "config.yaml").write_text(yaml.safe_dump(config))
    code, text = command("evaluate", "--config-dir", str(home / "own parts"), f"run={hostile.folder}")
    assert code == 1
    expected = sentence if part == "fusion" else sentence.split("gmu_lightning")[0]
    assert expected in last_line(text) and "Traceback" not in text
    assert not list(tmp_path.rglob("touched"))


PROBLEMS = {
    "no_module": "Python finds no module my_part; correct the name, or type --config-dir FOLDER",
    "no_class": "has no MyFusoin; did you mean MyFusion?",
    "no_python": "broken.py is no valid Python (",
    "no_yaml": "fusion/no_yaml.yaml is no valid YAML (",
    "no_fusion": "_target_=my_parts.NoFusion is no subclass of gmu_lightning.fusion.base.Fusion: derive the class from it",
}


@pytest.mark.parametrize("check", ["check=true", "check=false"])
@pytest.mark.parametrize("choice", PROBLEMS)
def test_an_own_class_with_a_problem_ends_in_one_sentence(command, home, store, choice, check):
    words = ("--config-dir", str(home / "own parts"), *SMOKE, f"fusion={choice}", f"store.dir={store}", check)
    code, text = command("train", *words)
    assert code == 1
    assert PROBLEMS[choice] in last_line(text) and "Traceback" not in text


@pytest.mark.heavy
def test_the_search_path_equals_the_option(command, home, store, tmp_path):
    source = "hydra.searchpath=[file://own parts]"
    words = ("-m", source, *SMOKE, "fusion=my_fusion", "seed=1,2", "hydra/launcher=stacked", "hydra.sweep.dir=searched")
    done = typed("train", *words, folder=home, store=store)
    assert done.returncode == 0, done.stderr
    assert "no movies" not in done.stdout + done.stderr
    assert "--config-dir" not in (home / "searched/comparison.md").read_text()
    run = next(path.parent for path in (home / "searched").glob("*/config.yaml"))
    assert Run(run).config["config_dir"] == str(home / "own parts")
    code, text = command("evaluate", f"run={run}")
    assert code == 1 and last_line(text).endswith(f"(the run was trained with --config-dir '{home / 'own parts'}')")
    code, text = command("evaluate", f"hydra.searchpath=[file://{home}/own parts]", f"run={run}")
    assert code == 0, text


@pytest.mark.heavy
@pytest.mark.parametrize("launcher", ["basic", "processes", "stacked"])
def test_every_launcher_trains_own_classes(home, store, launcher):
    words = ("-m", "--config-dir", "own parts", *SMOKE, f"hydra.sweep.dir={launcher}", f"hydra/launcher={launcher}")
    done = typed("train", *words, "fusion=mean,my_fusion,no_class", "seed=1,2", folder=home, store=store)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    jobs = json.loads((home / launcher / "status.json").read_text())["jobs"]
    assert sorted(job["state"] for job in jobs) == ["failed"] * 2 + ["finished"] * 4
    assert all(PROBLEMS["no_class"] in job["why"] for job in jobs if job["state"] == "failed")
    assert "no movies" not in done.stdout + done.stderr
    assert f"--config-dir '{home / 'own parts'}' " in (home / launcher / "comparison.md").read_text()
