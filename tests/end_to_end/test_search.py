"""A search tunes every setting with the same budget on val, and trains its winner on fresh seeds."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .shell import SMOKE, last_line, typed

pytest.importorskip("optuna")

SMALL = ("hydra.sweeper.trials=3", "hydra.sweeper.at_once=2", "seed=1,2", "hydra.sweep.dir=found")
Searched = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def search(tmp_path, raw, store) -> Searched:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return typed("train", "-m", "sweep=search", *SMOKE, f"data.root={raw}", *words, folder=tmp_path, store=store)

    return run


def trials(folder: Path) -> list[dict]:
    return json.loads((folder / "found/search/search.json").read_text())["settings"]


@pytest.mark.heavy
@pytest.mark.parametrize("launcher", ["basic", "processes"])
def test_settings_get_one_budget_and_winners_fresh_seeds(search, tmp_path, launcher):
    done = search("fusion=mean,concat,none", *SMALL, f"hydra/launcher={launcher}")
    assert done.returncode == 0, done.stderr
    mean, concat, none = trials(tmp_path)
    assert [len(one["trials"]) for one in (mean, concat)] == [3, 3]
    assert "takes exactly one modality" in none["why_not"]
    assert {run["params"]["fusion.dim"] for one in (mean, concat) for run in one["trials"]} <= {128, 256, 512}
    for one in (mean, concat):
        scores = [t["score"] for t in one["trials"]]
        assert one["best"] == one["trials"][scores.index(max(scores))]["params"]
    board = list(csv.DictReader((tmp_path / "found/leaderboard.csv").open()))
    assert {row["fusion"]: row["seed_list"] for row in board} == {"mean": "1,2", "concat": "1,2"}
    for row, one in ((next(r for r in board if r["fusion"] == name), one) for name, one in (("mean", mean), ("concat", concat))):
        assert float(row.get("optimizer.lr") or one["best"]["optimizer.lr"]) == pytest.approx(
            one["best"]["optimizer.lr"], rel=1e-3
        )
    assert (tmp_path / "found/report.html").exists()
    lines = [line.split("  ") for line in done.stdout.splitlines() if "micro F1" in line and "  micro AP" in line]
    assert {(line[0].rpartition("seed")[2][0], line[1].split()[0]) for line in lines} == {
        ("0", "val"),
        ("1", "test"),
        ("2", "test"),
    }
    names = [one["name"] for one in json.loads((tmp_path / "found/comparison.json").read_text())["settings"]]
    assert sorted(names) == ["concat tuned", "mean tuned"]


@pytest.mark.heavy
def test_a_trial_s_score_is_its_run_s_on_val(search, tmp_path):
    search("fusion=mean", *SMALL)
    (one,) = trials(tmp_path)
    runs = [json.loads(path.read_text()) for path in (tmp_path / "found/search").glob("*/metrics.json")]
    assert sorted(t["score"] for t in one["trials"]) == sorted(run["val/ap_micro"] for run in runs)


@pytest.mark.heavy
def test_a_search_that_was_stopped_goes_on_where_it_was(search, tmp_path):
    search("fusion=mean", *SMALL)
    before = trials(tmp_path)
    for winner in (tmp_path / "found").glob("mean-*"):  # as if test had scored no winner
        shutil.rmtree(winner)
    again = search("fusion=mean", *SMALL, "hydra.sweeper.trials=5")
    assert again.returncode == 0, again.stderr
    assert trials(tmp_path)[0]["trials"][:3] == before[0]["trials"]
    assert len(trials(tmp_path)[0]["trials"]) == 5


@pytest.mark.heavy
def test_a_search_told_in_two_parts_keeps_both(search, tmp_path):
    words = ("seed=1", "hydra.sweep.dir=found", "hydra.sweeper.trials=1")
    assert search("fusion=mean", *words).returncode == 0
    (mean,) = trials(tmp_path)
    assert search("fusion=concat", *words).returncode == 0
    both = trials(tmp_path)
    assert both[0] == mean
    assert "fusion=concat" in both[1]["overrides"]
    done = search("fusion=mean,concat", *words)  # every trial has been done
    assert done.returncode == 0, done.stderr
    assert trials(tmp_path) == both
    page = (tmp_path / "found/report.html").read_text()
    assert "1 trial of each setting, judged by val/ap_micro with seed 0." in page


@pytest.mark.heavy
def test_scored_winners_get_no_rivals_from_another_budget(search, tmp_path):
    words = ("fusion=mean", "seed=1", "hydra.sweep.dir=found")
    assert search(*words, "hydra.sweeper.trials=1").returncode == 0
    before = sorted(path.name for path in (tmp_path / "found").iterdir())
    again = search(*words, "hydra.sweeper.trials=2")
    assert again.returncode == 1
    assert "found holds the winners of a search of other trials, which test has judged" in last_line(again.stderr)
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == before


@pytest.mark.heavy
def test_a_setting_whose_trials_all_fail_has_no_winner(search, tmp_path):
    done = search("fusion=mean", "optimizer.lr=1e30", *SMALL)
    assert done.returncode == 1
    assert "none of its trials finished, so it has no winner" in done.stderr
    assert last_line(done.stderr).startswith("a setting is left out, for none of its trials finished")
    assert not list((tmp_path / "found").glob("mean-*"))


@pytest.mark.heavy
@pytest.mark.parametrize("more", [[], ["++optimizer.lr=0.001"]])
def test_what_is_typed_leaves_the_space_or_comes_into_it(search, tmp_path, more):
    search("fusion=mean", "fusion.dim=8", "loss.pos_weight=none", "optimizer.weight_decay=interval(0.1,0.2)", *SMALL, *more)
    (one,) = trials(tmp_path)
    for trial in one["trials"]:
        assert set(trial["params"]) == {"optimizer.weight_decay", *(() if more else ("optimizer.lr",))}
        assert 0.1 <= trial["params"]["optimizer.weight_decay"] <= 0.2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["seed=0,1"], "seed=0 is the trials' own, and a winner is judged on fresh seeds"),
        (["hydra.sweeper.trials=0"], "hydra.sweeper.trials=0 is not possible: give a whole number from 1"),
        (["optimizer.lr=interval(1,1)"], "hydra.sweeper.space.optimizer.lr is no range"),
    ],
)
def test_what_is_typed_wrong_is_one_sentence(search, tmp_path, words, sentence):
    done = search("fusion=mean", *words)
    assert done.returncode == 1
    assert last_line(done.stderr).startswith(sentence)


def test_a_search_of_one_run_is_none(tmp_path, raw, store):
    done = typed("train", "sweep=search", *SMOKE, f"data.root={raw}", folder=tmp_path, store=store)
    assert done.returncode == 1
    assert last_line(done.stderr).startswith("sweep=search trains many jobs, so it needs -m")


def test_a_check_says_what_would_be_searched(search, tmp_path):
    done = search("fusion=mean,concat", *SMALL, "check=true")
    assert done.returncode == 0, done.stderr
    assert "2 settings, 3 trials each, then 2 fresh seeds of each winner" in done.stdout
    assert not (tmp_path / "found").exists()
