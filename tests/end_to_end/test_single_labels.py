"""data.task=multiclass from training to the page: softmax, cross-entropy, the most probable label, accuracy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch.nn import functional as F

from gmu_lightning.data.planted import generate
from gmu_lightning.data.store import Store
from gmu_lightning.experiment.build import DatasetCache
from gmu_lightning.experiment.evaluate import evaluate
from gmu_lightning.movie import UserError
from gmu_lightning.report.robustness import SCORES
from gmu_lightning.run import Run
from gmu_lightning.sweep.job import Job, perform, perform_in_sweep, perform_stacked

from .shell import last_line, typed

ONE_LABEL = ("experiment=smoke", "+data.task=multiclass", "trainer.threads=1")
FROZEN = (
    *("data.modalities=video+audio", "modalities=video+audio", "trainer.max_epochs=4", "optimizer.lr=0.05"),
    *("data.batch_size=16", "monitor=val/accuracy"),
)


def write_films(folder: Path, modalities: tuple[str, ...], movies: int = 60) -> Path:
    """Write generated movies with the first of their genres each; every tenth movie has none."""
    generate(folder, movies=movies, seed=0, modalities=modalities)
    for path in (folder / "dataset").glob("*.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"genres": record["genres"][:1] if int(path.stem) % 10 else []}))
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Films with plots and posters."""
    return write_films(tmp_path_factory.mktemp("films") / "films", ("text", "image"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Films with vectors that an encoder caches."""
    return write_films(tmp_path_factory.mktemp("clips") / "clips", ("video", "audio"), 120)


@pytest.fixture(scope="module")
def run(job, films) -> Run:
    """A gated run on films."""
    made = job(f"data.root={films}", preset=ONE_LABEL)
    perform(made)
    return made.run


def test_predictions_are_a_softmax_with_exact_contributions(run):
    for split in ("val", "test"):
        found = run.predictions(split)
        table = pq.read_table(run / f"predictions/{split}.parquet")
        probabilities = np.stack([table[f"prob/{genre}"].to_numpy() for genre in found.genres], axis=1)
        assert probabilities == pytest.approx(torch.from_numpy(found.logits).softmax(dim=1).numpy())
        assert (found.labels.sum(axis=1) == 1).all()
        assert found.bias + found.contributions.sum(axis=1) == pytest.approx(found.logits, abs=1e-5)
        assert found.gate is not None


def test_metrics_equal_scikit_learn_s_and_torch_s(run):
    metrics = run.metrics
    for split in ("val", "test"):
        found = run.predictions(split)
        truth, predicted = found.labels.argmax(axis=1), found.logits.argmax(axis=1)
        accuracy = metrics[f"{split}/accuracy"]
        assert accuracy == metrics[f"{split}/f1_micro"] == pytest.approx(accuracy_score(truth, predicted))
        labels = range(len(found.genres))
        macro = f1_score(truth, predicted, labels=labels, average="macro", zero_division=0)
        assert metrics[f"{split}/f1_macro"] == pytest.approx(macro)
        loss = F.cross_entropy(torch.from_numpy(found.logits).float(), torch.from_numpy(truth))
        assert metrics[f"{split}/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert not [name for name in metrics if "@" in name]


def test_config_and_history_name_the_task_s_loss_and_accuracy(run):
    assert run.config["choices"]["loss"] == "cross_entropy"
    assert run.config["loss"] == {"_target_": "gmu_lightning.losses.CrossEntropy", "_partial_": True, "class_weight": "none"}
    best = run.history[run.metrics["best_epoch"]]
    assert float(best["val/accuracy"]) == pytest.approx(run.metrics["val/accuracy"])


def test_movies_without_a_label_are_in_the_audit_alone(run, films):
    records = {path.stem: json.loads(path.read_text())["genres"] for path in (films / "dataset").glob("*.json")}
    without = {movie for movie, genres in records.items() if not genres}
    removed = {problem["id"] for problem in run.audit["problems"] if problem["action"] == "removed"}
    assert len(without) == 6 and removed == without
    assert sum(run.audit["movies"].values()) == 60 - len(without)


def test_evaluate_gives_the_run_s_own_scores(run, store):
    folder = evaluate(run, "test", None, "0.5", Store(store), robustness_seed=0)
    found = json.loads((folder / "metrics.json").read_text())
    assert found == pytest.approx({name: run.metrics[name] for name in found}, abs=1e-6) and "test/accuracy" in found
    rows = (folder / "robustness.csv").read_text().splitlines()
    header, full = rows[0].split(","), next(row.split(",") for row in rows if row.startswith("subset") and "text+image" in row)
    scores = dict(zip(header, full, strict=True))
    assert {name: float(scores[name]) for name in SCORES} == pytest.approx({s: found[f"test/{s}"] for s in SCORES}, abs=1e-6)
    words = (folder / "robustness.md").read_text()
    assert "test accuracy by the share" in words and "threshold" not in words


@pytest.mark.parametrize("threshold", ["val", "val_per_genre", "0.3"])
def test_evaluate_refuses_a_threshold(run, store, threshold):
    with pytest.raises(UserError, match=f"threshold={threshold} is not possible: .* predicts the most probable label without"):
        evaluate(run, "test", None, threshold, Store(store))


def test_movies_with_several_labels_are_refused(job, raw):
    made = job(f"data.root={raw}", preset=ONE_LABEL)
    with pytest.raises(UserError, match=r"have several labels, .* set data.task=multilabel"):
        perform(made)
    assert made.run.status["state"] == "failed"


@pytest.mark.parametrize("loss", ["bce", "asymmetric"])
def test_a_loss_for_several_labels_is_skipped_in_a_sweep(job, films, loss):
    reason = perform_in_sweep(job(f"data.root={films}", f"loss={loss}", preset=ONE_LABEL, sweep="sweep"))
    assert reason == (
        f"loss={loss} is of data.task=multilabel, and data.task=multiclass here: leave loss out, or choose one of this task"
    )


@pytest.fixture(scope="module")
def jobs(job, clips) -> Callable[[str], list[Job]]:
    """(fusion) -> two jobs over cached vectors that differ by their seed."""
    words = (*ONE_LABEL, *FROZEN, f"data.root={clips}")
    return lambda fusion: [job(f"fusion={fusion}", f"seed={seed}", preset=words, sweep="sweep") for seed in (1, 2)]


@pytest.mark.parametrize("fusion", ["gmu_original", "late", "moe"])
def test_cached_vectors_train_as_under_a_trainer(jobs, fusion):
    alone, stacked = jobs(fusion), jobs(fusion)
    for one in alone:
        perform(one)
    assert perform_stacked(stacked, DatasetCache()) == {}
    for ours, theirs in zip(stacked, alone, strict=True):
        assert ours.run.status["state"] == "finished", ours.run.status["why"]
        for row, expected in zip(ours.run.history, theirs.run.history, strict=True):
            for name in ("train/loss", "val/loss", "val/accuracy", "val/ap_micro"):
                assert float(row[name]) == pytest.approx(float(expected[name]), rel=1e-4), name
        logits = [made.run.predictions("test").logits for made in (ours, theirs)]
        assert logits[0] == pytest.approx(logits[1], abs=1e-3)
        assert ours.run.metrics["test/accuracy"] == theirs.run.metrics["test/accuracy"]


@pytest.mark.parametrize("fusion", ["late", "moe"])
def test_mixtures_predict_one_distribution(jobs, fusion):
    made = jobs(fusion)[0]
    perform(made)
    found = made.run.predictions("test")
    assert found.probabilities.sum(axis=1) == pytest.approx(np.ones(len(found.ids)))
    sums = np.exp(found.logits).sum(axis=1)
    assert (fusion == "late") is bool(np.allclose(sums, 1))  # the logits of `late` are log probabilities


@pytest.mark.heavy
def test_commands_report_single_labels_from_training_to_the_page(films, store, tmp_path):
    words = ("-m", *ONE_LABEL, f"data.root={films}", "fusion=gmu_original,mean", "seed=1,2,3", "hydra.sweep.dir=sweep")
    done = typed("train", *words, folder=tmp_path, store=store)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout and "micro F1" not in done.stdout
    header = (tmp_path / "sweep/leaderboard.csv").read_text().splitlines()[0]
    assert "test/accuracy/mean,test/accuracy/sd" in header and "test/f1_micro/mean" in header
    one = next(path.parent for path in sorted((tmp_path / "sweep").glob("*/metrics.json")))
    scored = typed("evaluate", f"run={one}", "split=val", folder=tmp_path, store=store)
    assert re.match(r"val accuracy 0\.\d+, micro AP", scored.stdout), scored.stderr
    refused = typed("evaluate", f"run={one}", "threshold=val", folder=tmp_path, store=store)
    assert refused.returncode == 1 and "leave threshold out" in last_line(refused.stderr)
    compared = typed("compare", "runs=sweep", "metric=accuracy", "output=board", folder=tmp_path, store=store)
    assert compared.returncode == 0 and compared.stdout.startswith("# Accuracy on"), compared.stderr
    assert json.loads((tmp_path / "board/comparison.json").read_text())["metric"] == "accuracy"
    for page in ("sweep/report.html", "board/report.html"):
        assert "Confusion matrix" in (tmp_path / page).read_text()
