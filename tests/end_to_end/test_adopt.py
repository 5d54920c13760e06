"""Adopted predictions are runs like any other to leaderboards, compare and the page, and unknown values are null."""

# ruff: noqa: E501  # a case is read in one line

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import gmu_lightning as gl
from gmu_lightning.adoption.command import Request
from gmu_lightning.adoption.command import adopt as adopt_predictions
from gmu_lightning.config.options import AdoptConfig
from gmu_lightning.files import file_digest
from gmu_lightning.movie import UserError
from gmu_lightning.run import Run

from .shell import last_line, typed

DATA = ("data=planted", "data.movies=60")
SCORED = ("val", "test")


def adopt(folder: Path, store: Path, *arguments: str, name: str = "gpt-x"):
    return typed("adopt", f"name={name}", *arguments, folder=folder, store=store)


def table(run: Run) -> pd.DataFrame:
    """Return ids and probabilities of a run's val and test movies."""
    whole = pd.concat([pd.read_parquet(run / f"predictions/{split}.parquet") for split in SCORED], ignore_index=True)
    return whole[["id", *(name for name in whole if name.startswith("prob/"))]]


def labels(run: Run) -> pd.DataFrame:
    """Return ids and lists of predicted genres of a run's val and test movies."""
    found = table(run).set_index("id")
    return pd.DataFrame(
        {"id": found.index, "genres": [[name[5:] for name in found if row[name] >= 0.5] for _, row in found.iterrows()]}
    )


def commands(page: Path) -> list[list[str]]:
    """Return the words of each command on a page that adopts predictions."""
    found = re.findall(r'data-copy="(python -m gmu_lightning\.adopt [^"]*)"', page.read_text())
    return [shlex.split(unescape(command)) for command in found]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("adopted")


@pytest.fixture(scope="module")
def adopted(home, smoke, store) -> Run:
    """The smoke run's own predictions, adopted."""
    done = adopt(home, store, f"predictions={smoke.folder}/predictions", *DATA, "modalities=text", "hydra.run.dir=gpt")
    assert done.returncode == 0, done.stderr
    return Run(home / "gpt")


def test_adopted_predictions_have_the_scores_of_their_run(smoke, adopted):
    mine, theirs = adopted.metrics, smoke.metrics
    scores = {key for key in theirs if key.startswith(("val/", "test/", "threshold@"))} - {"val/loss", "test/loss"}
    assert len(scores) > 50
    assert {key: mine[key] for key in scores} == pytest.approx({key: theirs[key] for key in scores}, abs=1e-6)
    for split in SCORED:
        a, b = adopted.predictions(split), smoke.predictions(split)
        assert (a.ids, a.genres, a.modalities) == (b.ids, b.genres, ("text",))
        assert np.array_equal(a.labels, b.labels)
        assert np.allclose(a.probabilities, b.probabilities, atol=1e-9)
    assert adopted.data_fingerprint == {key: smoke.data_fingerprint[key] for key in ("movies", "text")}


def test_unknown_values_are_null_or_absent(smoke, adopted):
    known = adopted.metrics
    assert {key for key, value in known.items() if value is None} == {
        *("parameters/total", "parameters/trainable", "parameters/fusion", "seconds/total", "best_epoch", "epochs")
    }
    assert not {"val/loss", "peak_memory_mb"} & set(known)
    assert not {"packages", "device", "git_commit"} & set(adopted.environment)
    sources = adopted.config["adopted"]["sources"]
    assert {(Path(one["file"]).name, one["sha256"]) for one in sources} == {
        (f"{split}.parquet", file_digest(smoke / f"predictions/{split}.parquet")) for split in SCORED
    }
    assert adopted.audit["movies"] == smoke.audit["movies"]
    assert adopted.status["state"] == "finished"


def test_compare_shows_both_rows(smoke, adopted, home, store):
    done = typed("compare", f"runs={smoke.folder},{adopted.folder}", "output=compared", folder=home, store=store)
    assert done.returncode == 0, done.stderr
    board = list(csv.DictReader((home / "compared/leaderboard.csv").open()))
    rows = {row["fusion"]: row for row in board}
    assert rows.keys() == {"gpt-x", "gmu_original"}
    mine, theirs = rows["gpt-x"], rows["gmu_original"]
    assert float(mine["test/ap_micro/mean"]) == pytest.approx(float(theirs["test/ap_micro/mean"]), abs=1e-6)
    assert (mine["modalities"], mine["seeds"], mine["parameters"], mine["seconds/mean"]) == ("text", "1", "", "")
    assert [key for key in mine if "trainer" in key or "experiment" in key] == []
    found = json.loads((home / "compared/comparison.json").read_text())
    assert {one["name"] for one in found["settings"]} == {"gpt-x text", "gmu_original text+image"}
    assert "gmu_original text+image and gpt-x text are one result" in found["pairs"][0]["sentence"]
    assert "The predictions of gpt-x text were made elsewhere." in found["caution"]
    assert "trials" not in found["caution"]
    assert "name=gpt-x" in commands(home / "compared/report.html")[0]


@pytest.mark.parametrize("command", ["evaluate", "predict movie.text=x", "export output=x", "train rerun"])
def test_a_command_that_needs_a_model_names_the_reason(command, adopted, home, store):
    name, *more = command.split()
    words = [f"rerun={adopted.folder}"] if more == ["rerun"] else [f"run={adopted.folder}", *more]
    done = typed(name, *words, folder=home, store=store)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert last_line(done.stderr) == (
        f"{adopted.folder} holds adopted predictions and no model, so only compare, leaderboards and reports read it: give the "
        "folder of a run that train wrote"
    )


def test_python_reads_an_adopted_run(adopted):
    run = gl.Run(adopted.folder)
    assert run.history.empty
    assert len(run.predictions("val")) == run.metrics["val/movies"]
    assert "gpt-x on text, seed 1: finished" in run._repr_html_()


@pytest.mark.heavy
def test_labels_of_three_seeds_are_compared(smoke, home, store):
    answers = labels(smoke)
    empty = answers.assign(seed=2, genres=[[] if n % 2 else names for n, names in enumerate(answers["genres"])])
    other = answers.assign(seed=3, genres=[[] if n % 3 else names for n, names in enumerate(answers["genres"])])
    path = home / "my answers, (new)=1.jsonl"
    pd.concat([answers.assign(seed=1), empty, other]).sample(frac=1, random_state=0).to_json(path, orient="records", lines=True)
    done = adopt(home, store, f"predictions={path.name}", *DATA, "hydra.run.dir=three", name="an LLM (zero-shot)")
    assert done.returncode == 0, done.stderr
    runs = [Run(home / f"three/seed{seed}") for seed in (1, 2, 3)]
    assert [(run.config["seed"], run.config["modalities"]) for run in runs] == [(1, "unknown"), (2, "unknown"), (3, "unknown")]
    assert len({run.status["setting"] for run in runs}) == 1 < len({run.status["identity"] for run in runs})
    assert runs[0].metrics["test/f1_micro"] == pytest.approx(smoke.metrics["test/f1_micro"], abs=1e-6)
    assert np.isfinite(runs[0].predictions("test").logits).all()
    assert runs[0].status["warnings"][0].startswith("hard_labels: the predictions are labels and no probabilities")
    done = typed("compare", "runs=three", "output=alone", folder=home, store=store)
    assert done.returncode == 0, done.stderr
    assert "There is one setting, an LLM (zero-shot), so there is no comparison." in done.stdout
    assert "gives labels and no probabilities" in done.stdout
    assert f"predictions={path}" in commands(home / "alone/report.html")[0]


def test_files_without_a_common_movie_are_one_run(smoke, home, store):
    for split in SCORED:
        shutil.copy(smoke / f"predictions/{split}.parquet", home / f"{split}1.parquet")
        frame = pd.read_parquet(smoke / f"predictions/{split}.parquet")
        names = [name for name in frame if name.startswith("prob/")]
        frame.assign(**{name: 1 - frame[name] for name in names}).to_parquet(home / f"{split}2.parquet")
    files = ",".join(f"{split}{n}.parquet" for n in (1, 2) for split in SCORED)
    done = adopt(home, store, f"predictions={files}", *DATA, "hydra.run.dir=four", "seed=7")
    assert done.returncode == 0, done.stderr
    assert [Run(home / f"four/seed{seed}").config["seed"] for seed in (7, 8)] == [7, 8]


@pytest.mark.heavy
def test_an_adopted_run_in_a_sweep_joins_its_leaderboard(smoke, adopted, home, store):
    sweep = home / "sweep"
    shutil.copytree(adopted.folder, sweep / "gpt")
    done = typed(
        "train", "-m", "experiment=smoke", "trainer.max_epochs=1", "trainer.threads=1", f"hydra.sweep.dir={sweep}", "seed=1,2",
        "fusion=mean", folder=home, store=store,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((sweep / "leaderboard.csv").open()))
    assert {row["fusion"] for row in rows} == {"mean", "gpt-x"}
    assert "no report was made" not in done.stderr
    assert "3 finished, 0 failed" in done.stdout and "Open " in done.stdout


def drop(frame: pd.DataFrame, run: Run) -> pd.DataFrame:
    return frame[~frame["id"].isin(run.predictions("test").ids[:2])]


def without_val(frame: pd.DataFrame, run: Run) -> pd.DataFrame:
    return frame[~frame["id"].isin(run.predictions("val").ids)]


REFUSED = {
    "missing": (drop, "lacks 2 of 10 test movies, the first {test}: predict every movie of val and test"),
    "no val": (without_val, "has no movie of val: predict its 10 movies too, because val tunes thresholds"),
    "twice": (lambda f, _: pd.concat([f, f[:1]]), "has a row of a movie that has a row already, the first in p.csv:22 ({val}, before in p.csv:2)"),
    "unknown": (lambda f, _: f.assign(id=[f"x{n}" for n in f["id"]]), "has no movie of the data: its ids are such as x{val} (p.csv:2), and the data's such as "),
    "zeros": (lambda f, _: f.assign(id=f["id"].astype(int)), "the data have {val}: write ids as text, with their zeros"),
    "split": (lambda f, _: f.assign(split="val"), "has 10 movies in another split than the data, the first {test} (val in p.csv:12, test in the data)"),
    "equal seeds": (lambda f, _: pd.concat([f.assign(seed=1), f.assign(seed=4)]), "seeds 1 and 4 predict the same for every movie"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_predictions_that_do_not_fit_are_refused(case, smoke, adopted, tmp_path, store):
    change, sentence = REFUSED[case]
    change(table(smoke), smoke).to_csv(tmp_path / "p.csv", index=False)
    options, data = AdoptConfig(name="gpt-x"), adopted.config["data"]
    with pytest.raises(UserError) as refused:
        adopt_predictions(Request(options, [tmp_path / "p.csv"], data, "planted", store, tmp_path / "run", []))
    assert sentence.format(**{split: smoke.predictions(split).ids[0] for split in SCORED}) in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("name=mean", *DATA), "name=mean is a fusion, and reports would mix the two: give another name, such as name=my-mean"),
        (("name= ", *DATA), "name= is no name: give a word of at most 60 letters, such as name=gpt-x"),
        (
            ("name=x", *DATA, "modalities=text+audio"),
            "data=planted has no audio: choose modalities among text, image, joined by +",
        ),
        (("name=x", *DATA, "modalities=smell"), "modalities=smell names 'smell', which is no modality"),
        (("name=x", *DATA, "seed=-1"), "seed=-1"),
        (("name=x", "data.root=nowhere"), "data.root=nowhere does not exist"),
        (("name=x", *DATA, "fusion=mean"), "fusion"),
        (("name=x", *DATA, "hydra.run.dir=taken"), "taken holds a finished run, which is never overwritten"),
    ],
)
def test_a_wrong_request_is_one_sentence(words, sentence, adopted, smoke, tmp_path, store):
    shutil.copytree(adopted.folder, tmp_path / "taken")
    done = typed("adopt", f"predictions={smoke.folder}/predictions", *words, folder=tmp_path, store=store)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert sentence.replace("nowhere ", f"{tmp_path}/nowhere ") in last_line(done.stderr)


def test_true_labels_are_suspected(copy, tmp_path, store):
    rows = [{"id": movie, "genres": copy.record(movie)["genres"]} for split in ("dev", "test") for movie in copy.ids[split]]
    pd.DataFrame(rows).to_json(tmp_path / "p.jsonl", orient="records", lines=True)
    done = adopt(tmp_path, store, "predictions=p.jsonl", f"data.root={copy.folder}", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert [warning.partition(":")[0] for warning in Run(tmp_path / "run").status["warnings"]] == ["hard_labels", "perfect"]


def test_single_labels_are_adopted(tmp_path, store):
    rng = np.random.default_rng(0)
    rows = [
        {"id": f"m{n}", "plot": f"Plot {n}", "label": "abc"[n % 3], "split": ["train", "val", "test"][n // 30]} for n in range(90)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "movies.csv", index=False)
    odds = rng.random((60, 3))
    frame = pd.DataFrame(odds / odds.sum(axis=1, keepdims=True), columns=list("abc")).round(3)
    frame.assign(id=[row["id"] for row in rows[30:]]).to_csv(tmp_path / "p.csv", index=False)
    data = ("data=files", "data.root=movies.csv", "data.task=multiclass")
    done = adopt(tmp_path, store, "predictions=p.csv", *data, "modalities=text", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    truth = np.array(["abc".index(row["label"]) for row in rows[60:]])
    assert Run(tmp_path / "run").metrics["test/accuracy"] == np.mean(frame.to_numpy()[30:, :3].argmax(axis=1) == truth)
