"""Runs whose files are damaged or whose movies differ are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gmu_lightning.files import write_json
from gmu_lightning.movie import UserError
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.page.movies import ExampleMovies
from gmu_lightning.report.page.write import page
from gmu_lightning.report.sentences import markdown
from gmu_lightning.run import runs_under

from .made_runs import Sweep, replace_predictions


def test_scores_must_agree_with_predictions(sweep):
    first, *_ = runs = sweep.rivals()
    write_json(first / "metrics.json", first.metrics | {"test/f1_micro": 0.9})
    with pytest.raises(UserError, match=r"metrics.json says 0.9000 of test/f1_micro and its predictions give 0\.\d+, so one of"):
        compare(runs)


@pytest.mark.parametrize("split", ["test", "val"])
def test_nan_logits_are_refused(sweep, split):
    first, *_ = runs = sweep.rivals()
    predicted = first.predictions(split)
    predicted.logits[0, 0] = np.nan
    predicted.write(first / f"predictions/{split}.parquet")
    with pytest.raises(UserError, match=f"predictions/{split}.parquet is damaged, for it holds logits that are no numbers"):
        compare(runs)


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("status.json", {"warnings": ...}, "status.json is damaged, for it lacks warnings"),
        ("status.json", {"identity": ...}, "status.json is damaged, for it lacks identity"),
        ("metrics.json", {"test/ap_micro": float("nan")}, "metrics.json is damaged, for it holds NaN, which is no number"),
    ],
)
def test_damaged_file_is_named(sweep, file, change, sentence):
    first, *_ = runs = sweep.rivals()
    content = json.loads((first / file).read_text()) | change
    (first / file).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    with pytest.raises(UserError, match=sentence):
        compare(runs)


def test_damaged_history_or_configuration_is_named(sweep):
    first, *_ = runs = sweep.rivals()
    (first / "history.csv").write_text("epoch,train/loss\nx,y\n")
    with pytest.raises(UserError, match=r"history.csv is damaged"):
        page(compare(runs), runs, ExampleMovies())
    (first / "config.yaml").write_text("modalities: text\n")
    with pytest.raises(UserError, match=r"config.yaml is damaged, for it lacks seed"):
        compare(runs)


def test_other_labels_of_val_are_refused(sweep):
    runs = sweep.rivals()
    for run in runs[:3]:
        predicted = run.predictions("val")
        predicted.labels = np.roll(predicted.labels, 1, axis=0)
        replace_predictions(run, predicted)
    (refused,) = compare(runs).refused
    assert refused["why"].startswith("on val ")
    assert refused["why"].endswith(" of 60 movies have other labels")


def test_another_order_of_genres_is_refused(sweep):
    runs = sweep.three_seeds("mean")
    other = Sweep(sweep.folder, genres=sweep.genres[::-1])
    (refused,) = compare([*runs, *other.three_seeds("concat")]).refused
    assert refused["why"] == "their genres are in another order"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"data": {"label_policy": "mmbt"}}, "data.label_policy is keep23 in one and mmbt in the other"),
        ({"data": {"limit": "20/5/5"}}, "data.limit is None in one and 20/5/5 in the other"),
        ({"choices": {"data": "moviescope"}}, "one was tested on mmimdb, the other on moviescope"),
        ({}, "they saw different movies, splits or labels"),
    ],
)
def test_settings_on_other_data_are_refused(sweep, change, why):
    sweep.three_seeds("mean", 1.0)
    other = Sweep(sweep.folder, fingerprint=sweep.fingerprint | {"movies": "m2"})
    other.three_seeds("concat", 1.0, **change)
    found = compare(runs_under(sweep.folder))
    assert not found.pairs
    (refused,) = found.refused
    assert {refused["a"], refused["b"]} == {"mean", "concat"}
    assert why in refused["why"]
    assert why in markdown(found)
    assert not found.letters


def test_other_content_is_refused_if_both_settings_read_it(sweep):
    sweep.three_seeds("mean", 1.0)
    other = Sweep(sweep.folder, fingerprint=sweep.fingerprint | {"image": "i2"})
    other.three_seeds("concat", 1.0)
    other.three_seeds("none", 1.0, modalities="text")
    found = compare(runs_under(sweep.folder))
    assert [row["why"] for row in found.refused] == ["the content of image differs"]
    assert len(found.pairs) == 2


def test_another_threshold_is_refused(sweep):
    sweep.three_seeds("mean", 1.0)
    for run in sweep.three_seeds("concat", 1.0):
        predicted = run.predictions("test")
        predicted.threshold = 0.3
        replace_predictions(run, predicted)
    (refused,) = compare(runs_under(sweep.folder)).refused
    assert refused["why"] == "predictions are made at the threshold 0.5 and at 0.3"
