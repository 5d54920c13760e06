"""A run, from its overrides to the files it leaves: complete, exact, reproducible, and blind to the test split."""

from __future__ import annotations

import csv
import json
import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from gmu_lightning.data.store import Store
from gmu_lightning.experiment.evaluate import evaluate
from gmu_lightning.run import Run
from gmu_lightning.sweep.files import write_sweep
from gmu_lightning.sweep.job import perform_in_sweep

FILES = {
    *("status.json", "config.yaml", "overrides.txt", "metrics.json", "history.csv", "audit.json", "environment.json"),
    *("predictions/val.parquet", "predictions/test.parquet", "checkpoints/best.ckpt", "checkpoints/last.ckpt"),
    *("gates/by_genre.parquet", "gates/by_genre.png", "gates/by_genre.svg", "figures/genres.png", "figures/genres.svg"),
}
AVERAGES = ("micro", "macro", "weighted", "samples")
SPLIT_KEYS = (
    *("loss", *(f"f1_{a}" for a in AVERAGES), "ap_micro", "ap_macro", "ap_samples", "ap_macro_genres"),
    *("movies", "movies_without_input", *(f"f1_{a}@{rule}" for a in AVERAGES for rule in ("val", "val_per_genre"))),
)
RUN_KEYS = (
    *("best_epoch", "epochs", "seconds/prepare", "seconds/encode", "seconds/fit", "seconds/total", "movies_per_second"),
    *("peak_memory_mb", "parameters/total", "parameters/trainable", "parameters/fusion", "contributions_exact"),
)
HISTORY = (
    "epoch",
    "step",
    "seconds",
    "lr",
    "train/loss",
    "val/loss",
    "val/f1_micro",
    "val/f1_macro",
    "val/ap_micro",
    "val/ap_macro",
)
VOLATILE = ("seconds/", "movies_per_second", "peak_memory_mb")

each_split = pytest.mark.parametrize("split", ["val", "test"])


@pytest.fixture(scope="module")
def alone(train) -> Run:
    """The smoke run again, in this process."""
    return train()


def table(run: Run, split: str) -> dict[str, np.ndarray]:
    """The stored predictions, column by column."""
    stored = pq.read_table(run / f"predictions/{split}.parquet")
    return {name: stored[name].to_numpy() for name in stored.column_names}


def about(run: Run, split: str) -> dict[str, Any]:
    return json.loads(pq.read_table(run / f"predictions/{split}.parquet").schema.metadata[b"gmu_lightning"])


def per_genre(run: Run, split: str, word: str) -> np.ndarray:
    """(N, C)"""
    columns = table(run, split)
    return np.stack([columns[f"{word}/{genre}"] for genre in about(run, split)["genres"]], axis=1)


def history(run: Run) -> list[dict[str, float]]:
    with (run / "history.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def read(run: Run, name: str) -> dict[str, Any]:
    return json.loads((run / name).read_text())


def checkpoint(run: Run, name: str = "best") -> dict[str, Any]:
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)


def same_tensors(one: Any, other: Any) -> bool:
    """Bit for bit, at any depth."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_tensors(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same_tensors, one, other))
    return one == other


def same_columns(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def lasting(metrics: dict[str, Any], *, without: str = "-") -> dict[str, Any]:
    """The metrics that do not tell the time, without those of a split."""
    return {name: value for name, value in metrics.items() if not name.startswith((*VOLATILE, without))}


def weights(run: Run) -> np.ndarray:
    """sqrt(N / n_pos) of every genre, from what audit.json counts in train."""
    audit = read(run, "audit.json")
    positives = np.array([audit["genres"]["train"][genre] for genre in checkpoint(run)["gmu_lightning"]["genres"]])
    return np.sqrt(audit["movies"]["train"] / positives)


def test_a_run_leaves_its_files_and_nothing_else(smoke):
    assert {str(path.relative_to(smoke.folder)) for path in smoke.folder.rglob("*") if path.is_file()} == FILES


def test_a_run_says_when_it_was_and_how_it_ended(smoke):
    status = smoke.status
    assert (status["state"], status["why"], status["warnings"]) == ("finished", None, [])
    started, ended = (datetime.fromisoformat(status[name]) for name in ("started", "ended"))
    assert started <= ended
    assert started.utcoffset().total_seconds() == 0
    assert status["identity"] != status["setting"]


def test_overrides_are_kept_as_typed(smoke):
    assert (smoke / "overrides.txt").read_text() == "experiment=smoke\ntrainer.threads=1\n"


def test_metrics_hold_every_key_as_a_finite_number(smoke):
    genres = about(smoke, "test")["genres"]
    expected = {f"{split}/{key}" for split in ("val", "test") for key in SPLIT_KEYS}
    expected |= {f"{split}/{score}/{genre}" for split in ("val", "test") for score in ("f1", "ap") for genre in genres}
    assert {*expected, *RUN_KEYS} <= smoke.metrics.keys()
    assert all(isinstance(value, (int, float)) and np.isfinite(value) for value in smoke.metrics.values())
    assert smoke.metrics["contributions_exact"] is True


@each_split
def test_scores_are_scikit_learns(smoke, split):
    labels, probabilities = per_genre(smoke, split, "label"), per_genre(smoke, split, "prob")
    expected: dict[str, float] = {"movies": 10, "movies_without_input": 0, "ap_macro_genres": len(labels.T)}
    for average in AVERAGES:
        expected[f"f1_{average}"] = f1_score(labels, probabilities >= 0.5, average=average, zero_division=0)
        tuned = probabilities >= smoke.metrics["threshold@val"]
        expected[f"f1_{average}@val"] = f1_score(labels, tuned, average=average, zero_division=0)
    for average in ("micro", "macro", "samples"):
        expected[f"ap_{average}"] = average_precision_score(labels, probabilities, average=average)
    for c, genre in enumerate(about(smoke, split)["genres"]):
        expected[f"f1/{genre}"] = f1_score(labels[:, c], probabilities[:, c] >= 0.5, zero_division=0)
        expected[f"ap/{genre}"] = average_precision_score(labels[:, c], probabilities[:, c])
    assert {name: smoke.metrics[f"{split}/{name}"] for name in expected} == pytest.approx(expected, abs=1e-6)


@each_split
def test_the_loss_is_weighted_cross_entropy_over_the_split(smoke, split):
    labels, logits = per_genre(smoke, split, "label"), per_genre(smoke, split, "logit")
    terms = np.where(labels, weights(smoke) * np.logaddexp(0, -logits), np.logaddexp(0, logits))
    assert smoke.metrics[f"{split}/loss"] == pytest.approx(terms.mean(), abs=1e-6)


@each_split
def test_bias_and_contributions_sum_to_the_logit(smoke, split):
    columns, bias = table(smoke, split), about(smoke, split)["bias"]
    for genre in about(smoke, split)["genres"]:
        explained = bias[genre] + columns[f"contribution/text/{genre}"] + columns[f"contribution/image/{genre}"]
        assert explained == pytest.approx(columns[f"logit/{genre}"], abs=1e-5)
        assert columns[f"prob/{genre}"] == pytest.approx(1 / (1 + np.exp(-columns[f"logit/{genre}"])), abs=1e-12)


@each_split
def test_predictions_have_a_row_per_movie_in_the_splits_order(smoke, raw, split):
    columns, ids = table(smoke, split), json.loads((raw / "split.json").read_text())["dev" if split == "val" else split]
    assert columns["id"].tolist() == ids
    assert set(columns["split"]) == {split}
    for n, movie in enumerate(ids):
        truly = json.loads((raw / f"dataset/{movie}.json").read_text())["genres"]
        assert {genre for genre in about(smoke, split)["genres"] if columns[f"label/{genre}"][n]} == set(truly)


def test_predictions_describe_themselves(smoke):
    told = about(smoke, "test")
    assert told["modalities"] == ["text", "image"]
    assert (told["threshold"], told["open_threshold"]) == (0.5, 0.5)
    assert told["data_fingerprint"] == read(smoke, "environment.json")["data_fingerprint"]
    assert told["data_fingerprint"].keys() == {"movies", "text", "image"}


def test_the_gates_of_two_modalities_are_shares(smoke):
    columns = table(smoke, "test")
    for suffix in ("", *(f"/{genre}" for genre in about(smoke, "test")["genres"])):
        assert columns[f"gate/text{suffix}"] + columns[f"gate/image{suffix}"] == pytest.approx(1, abs=1e-5)
    assert all(0 <= share <= 1 for m in ("text", "image") for share in columns[f"gate_open/{m}"])


def test_the_gate_table_covers_movies_that_have_the_genre(smoke):
    columns = table(smoke, "test")
    rows = pq.read_table(smoke / "gates/by_genre.parquet").to_pylist()
    assert len(rows) == 2 * len(about(smoke, "test")["genres"])
    for row in rows:
        has = columns[f"label/{row['genre']}"]
        assert row["movies"] == has.sum()
        assert row["gate"] == pytest.approx(columns[f"gate/{row['modality']}"][has].mean(), abs=1e-6)
        gates = columns[f"gate/{row['modality']}/{row['genre']}"][has]
        assert row["gate_weighted"] == pytest.approx(gates.mean(), abs=1e-6)


def test_a_checkpoint_says_what_its_weights_are_for(smoke):
    best = checkpoint(smoke)
    assert best["epoch"] == smoke.metrics["best_epoch"]
    assert best["gmu_lightning"]["genres"] == about(smoke, "test")["genres"]
    assert best["gmu_lightning"]["modalities"] == ["text", "image"]
    assert best["gmu_lightning"]["config"] == smoke.config
    assert checkpoint(smoke, "last")["epoch"] == 1


def test_the_audit_counts_movies_and_genres(smoke):
    audit = read(smoke, "audit.json")
    assert (audit["layout"], audit["movies"]) == ("raw", {"train": 40, "val": 10, "test": 10})
    assert (audit["problems"], audit["counts"]) == ([], {})
    for split in ("val", "test"):
        assert list(audit["genres"][split].values()) == per_genre(smoke, split, "label").sum(0).tolist()


def test_the_environment_is_told(smoke):
    told = read(smoke, "environment.json")
    assert {
        "python",
        "platform",
        "device",
        "threads",
        "packages",
        "command",
        "git_commit",
        "seed",
        "data_fingerprint",
    } <= told.keys()
    assert (told["threads"], told["seed"]) == (1, 1)
    assert "experiment=smoke" in shlex.split(told["command"])
    assert Path(told["cwd"]) == smoke.folder.parent


def test_scores_are_those_of_the_best_epoch(train):
    run = train("trainer.max_epochs=6", "optimizer.lr=0.1")
    rows = history(run)
    assert set(HISTORY) <= rows[0].keys()
    assert [row["epoch"] for row in rows] == list(range(6))
    best = int(np.argmax([row["val/ap_micro"] for row in rows]))
    assert best < 5, "a run whose best epoch is its last shows nothing here"
    assert run.metrics["best_epoch"] == best
    assert run.metrics["epochs"] == 6
    for name in ("loss", "f1_micro", "f1_macro", "ap_micro", "ap_macro"):
        assert run.metrics[f"val/{name}"] == pytest.approx(rows[best][f"val/{name}"], abs=1e-6)


def test_a_run_of_one_modality_keeps_only_that_ones_encoder(train):
    run = train("modalities=text", "fusion=none")
    assert list(run.config["encoder"]) == ["text"]
    assert [group for group in run.config["choices"] if group.startswith("encoder/")] == ["encoder/text"]
    assert not (run / "gates").exists()
    assert not [name for name in table(run, "test") if "image" in name or name.startswith("gate")]


def test_the_same_seed_gives_the_same_run_in_another_process(smoke, alone):
    assert same_tensors(checkpoint(smoke)["state_dict"], checkpoint(alone)["state_dict"])
    for split in ("val", "test"):
        assert same_columns(table(smoke, split), table(alone, split))
    assert lasting(smoke.metrics) == lasting(alone.metrics)
    assert smoke.status["identity"] == alone.status["identity"]


def test_another_seed_gives_another_run_of_the_same_setting(alone, train):
    other = train("seed=2")
    assert not np.array_equal(per_genre(alone, "test", "logit"), per_genre(other, "test", "logit"))
    assert about(alone, "test")["data_fingerprint"] == about(other, "test")["data_fingerprint"]
    assert other.status["setting"] == alone.status["setting"]
    assert other.status["identity"] != alone.status["identity"]


def test_a_job_of_a_sweep_equals_the_run_alone(alone, job, monkeypatch):
    for overrides in (("seed=3", "fusion=concat"), ()):
        swept = job(*overrides, sweep="sweep")
        perform_in_sweep(swept)
    assert swept.run.status["state"] == "finished"
    assert same_tensors(checkpoint(alone)["state_dict"], checkpoint(swept.run)["state_dict"])
    assert same_columns(table(alone, "test"), table(swept.run, "test"))


STANDARDISED = ("encoder.text.normalise=standardise", "encoder.image.normalise=standardise", "loss.pos_weight=inverse")


@pytest.fixture(scope="module")
def before(train, raw) -> Run:
    """A run that learns all it can from the data before the fit: vocabulary, means and deviations, weights of the loss."""
    return train(f"data.root={raw}", *STANDARDISED)


def same_training(one: Run, other: Run) -> bool:
    """Weights, optimiser and history are equal, times aside."""
    timeless = [[{**row, "seconds": 0} for row in history(run)] for run in (one, other)]
    states = [[checkpoint(run, name)["state_dict"] for name in ("best", "last")] for run in (one, other)]
    optimisers = [checkpoint(run, "last")["optimizer_states"] for run in (one, other)]
    return timeless[0] == timeless[1] and same_tensors(*states) and same_tensors(*optimisers)


def test_test_labels_change_test_scores_alone(before, copy, train):
    copy.flip("test")
    after = train(f"data.root={copy.folder}", *STANDARDISED)
    assert same_training(before, after)
    assert lasting(before.metrics, without="test/") == lasting(after.metrics, without="test/")
    assert same_columns(table(before, "val"), table(after, "val"))
    stays, changes = ([n for n in table(before, "test") if n.startswith("label/") is label] for label in (False, True))
    was, now = table(before, "test"), table(after, "test")
    assert same_columns({n: was[n] for n in stays}, {n: now[n] for n in stays})
    assert all((was[n] != now[n]).all() for n in changes)
    assert before.metrics["test/f1_micro"] != after.metrics["test/f1_micro"]
    prints = [read(run, "environment.json")["data_fingerprint"] for run in (before, after)]
    assert {name for name in prints[0] if prints[0][name] != prints[1][name]} == {"movies"}
    audits = [read(run, "audit.json") for run in (before, after)]
    assert audits[0]["genres"].pop("test") != audits[1]["genres"].pop("test")
    assert audits[0] == audits[1]
    assert before.status["identity"] == after.status["identity"]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_what_val_and_test_movies_hold_is_not_learned_from(before, copy, train, split):
    first, *others = copy.ids[split]
    for movie in others:
        copy.change(movie, plot=["Unheard words, unheard words, unheard words."] * 2)
        copy.poster(movie).write_bytes(copy.poster(first).read_bytes())
    after = train(f"data.root={copy.folder}", *STANDARDISED)
    assert same_tensors(checkpoint(before, "last")["state_dict"], checkpoint(after, "last")["state_dict"])
    changed = "val" if split == "dev" else split
    assert not np.array_equal(per_genre(before, changed, "logit"), per_genre(after, changed, "logit"))


def test_val_labels_change_no_training_loss(before, copy, train):
    copy.flip("dev")
    after = train(f"data.root={copy.folder}", *STANDARDISED)
    assert [row["train/loss"] for row in history(after)] == [row["train/loss"] for row in history(before)]
    assert [row["val/loss"] for row in history(after)] != [row["val/loss"] for row in history(before)]


def test_the_truth_of_generated_movies_is_never_read(before, copy, train):
    for name in ("truth.jsonl", "genres.json"):
        (copy.folder / name).unlink()
    after = train(f"data.root={copy.folder}", *STANDARDISED)
    assert same_columns(table(before, "test"), table(after, "test"))


def test_the_loss_weighs_genres_by_train_alone(before, copy, train):
    copy.flip("dev", "test")
    after = train(f"data.root={copy.folder}", *STANDARDISED)
    weight = checkpoint(after, "last")["state_dict"]["loss.weight"]
    assert torch.equal(weight, checkpoint(before, "last")["state_dict"]["loss.weight"])
    labels = [copy.record(movie)["genres"] for movie in copy.ids["train"]]
    positives = np.array([sum(genre in one for one in labels) for genre in about(after, "test")["genres"]])
    assert weight.numpy() == pytest.approx(len(labels) / positives, rel=1e-6)


def test_predictions_do_not_depend_on_the_batch(alone, copy, train, tmp_path):
    copy.poster(copy.ids["test"][1]).unlink()
    run = train(f"data.root={copy.folder}")
    store = Store(run.config["store"]["dir"])
    config = (run / "config.yaml").read_text()
    assert "batch_size: 64" in config
    (run / "config.yaml").write_text(config.replace("batch_size: 64", "batch_size: 1"))
    one_by_one = Run(evaluate(run, "test", None, "0.5", store))
    assert per_genre(one_by_one, "test", "logit") == pytest.approx(per_genre(run, "test", "logit"), abs=1e-5)


@pytest.mark.parametrize("fusion", ["gmu_original", "gmu_hier", "gmu_softmax"])
def test_movies_stay_when_a_poster_or_a_plot_is_missing(copy, train, fusion):
    no_poster, no_plot, neither, *whole = copy.ids["test"]
    in_train = copy.ids["train"][0]
    for movie in (no_poster, neither, in_train):
        copy.poster(movie).unlink()
    for movie in (no_plot, neither):
        copy.change(movie, plot=[])
    run = train(f"data.root={copy.folder}", f"fusion={fusion}")
    rows, bias = table(run, "test"), about(run, "test")["bias"]
    assert rows["id"].tolist() == copy.ids["test"]
    assert rows["present/text"].tolist() == [True, False, False, *(True for _ in whole)]
    assert rows["present/image"].tolist() == [False, True, False, *(True for _ in whole)]
    for n, shares in enumerate([(1, 0), (0, 1), (0, 0)]):
        assert (rows["gate/text"][n], rows["gate/image"][n]) == pytest.approx(shares, abs=1e-6)
    assert (rows["gate/text"] + rows["gate/image"])[3:] == pytest.approx(1, abs=1e-5)
    assert {genre: rows[f"logit/{genre}"][2] for genre in bias} == pytest.approx(bias, abs=1e-6)
    assert (run.metrics["test/movies"], run.metrics["test/movies_without_input"]) == (10, 1)
    assert run.metrics["val/movies_without_input"] == 0
    audit = read(run, "audit.json")
    assert audit["counts"] == {"missing_image": 3, "missing_plot": 2}
    assert {problem["action"] for problem in audit["problems"]} == {"kept_absent"}
    assert audit["movies"] == {"train": 40, "val": 10, "test": 10}


def test_a_run_that_learned_nothing_is_marked_everywhere(job, monkeypatch, capsys):
    flat = job("optimizer.lr=0", "trainer.max_epochs=3")
    perform_in_sweep(flat)
    warnings = flat.run.status["warnings"]
    assert [warning.split(":")[0] for warning in warnings] == ["flat_loss"]
    said = capsys.readouterr()
    assert {f"warning: {warning}" for warning in warnings} <= set(said.err.splitlines())
    assert "[flat_loss]" in said.out
    sweep = Path(flat.folder).parent
    write_sweep(sweep, flat.run.status["started"])
    with (sweep / "leaderboard.csv").open() as file:
        assert [row["warnings"] for row in csv.DictReader(file)] == ["; ".join(warnings)]


def test_two_epochs_are_too_few_to_call_a_loss_flat(train):
    assert train("optimizer.lr=0", "trainer.max_epochs=2").status["warnings"] == []


@pytest.mark.parametrize("profiler", ["simple", "advanced", "pytorch"])
def test_a_profiler_writes_a_file_and_changes_no_score(train, alone, capsys, profiler):
    run = train(f"trainer.profiler={profiler}")
    table = (run / "fit-profile.txt").read_text()
    assert "run_training_epoch" in table or "aten::" in table
    assert f"profile of the fit: {run / 'fit-profile'}" in capsys.readouterr().err
    assert len(list(run.folder.glob("*.pt.trace.json"))) == (profiler == "pytorch")
    assert run.status["identity"] == alone.status["identity"]

    def lasting(one: Run) -> dict[str, Any]:
        return {key: value for key, value in one.metrics.items() if not key.startswith(VOLATILE)}

    assert lasting(run) == lasting(alone)
