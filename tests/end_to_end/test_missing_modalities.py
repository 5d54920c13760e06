"""Scores of a finished run on movies that lack modalities, with and without modality_dropout."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from gmu_lightning.cli import tasks
from gmu_lightning.config.groups import conf_folder
from gmu_lightning.data.store import Store
from gmu_lightning.experiment.evaluate import evaluate
from gmu_lightning.experiment.robustness import SHARES, scenarios
from gmu_lightning.metrics import scores
from gmu_lightning.movie import UserError
from gmu_lightning.run import Run
from gmu_lightning.sweep.session import Session

from .shell import last_line, typed

SCORES = ("f1_micro", "f1_macro", "ap_micro", "ap_macro")


@pytest.fixture(scope="module")
def first(train, raw) -> Run:
    """A finished run on raw files, text and image."""
    return train(f"data.root={raw}")


@pytest.fixture(scope="module")
def study(first, store) -> Path:
    """The folder of its study on test."""
    return evaluate(first, "test", None, "0.5", Store(store), robustness_seed=0)


def table(folder: Path) -> list[dict[str, Any]]:
    """robustness.csv, its numbers as numbers."""
    with (folder / "robustness.csv").open(newline="", encoding="utf-8") as file:
        return [
            {k: v if k in ("kind", "modality", "subset") or not v else float(v) for k, v in r.items()}
            for r in csv.DictReader(file)
        ]


def curve(folder: Path, modality: str) -> dict[float, dict[str, Any]]:
    return {row["share"]: row for row in table(folder) if row["modality"] == modality}


def subset(folder: Path, name: str) -> dict[str, Any]:
    return next(row for row in table(folder) if row["subset"] == name)


def told(row: dict[str, Any]) -> dict[str, float]:
    return {score: row[score] for score in SCORES}


def test_robustness_writes_its_study_and_prints_a_summary(first, store, tmp_path):
    done = typed(
        "evaluate", f"run={first.folder}", "split=val", "robustness=true", "robustness_seed=5", folder=tmp_path, store=store
    )
    assert done.returncode == 0, done.stderr
    folder = Path(last_line(done.stdout)).parent
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == {
        "audit.json",
        "metrics.json",
        "predictions/val.parquet",
        *(f"robustness.{kind}" for kind in ("csv", "json", "md", "png", "svg")),
        "robustness_by_genre.csv",
    }
    about = json.loads((folder / "robustness.json").read_text())
    assert (about["run"], about["split"], about["seed"]) == (first.folder.name, "val", 5)
    assert about["shares"] == list(SHARES)
    assert about["realised"]["image"] == {"0": 0.0, "0.1": 0.1, "0.25": 0.2, "0.5": 0.5, "0.75": 0.8, "1": 1.0}
    for modality in ("text", "image", "all"):
        at_0, at_50, at_100 = (f"{curve(folder, modality)[share]['f1_micro']:.4f}" for share in (0.0, 0.5, 1.0))
        assert f"{at_0}   {at_50}   {at_100}   50.0 %" in done.stdout
    assert "val micro F1 without modalities, robustness_seed=5, trained without modality_dropout" in done.stdout
    assert str(folder / "robustness.png") in done.stdout


def test_with_nothing_lost_the_scores_are_evaluate_s_own(first, study):
    own = {score: first.metrics[f"test/{score}"] for score in SCORES}
    assert {score: Run(study).metrics[f"test/{score}"] for score in SCORES} == pytest.approx(own, abs=1e-6)
    for row in (*(curve(study, name)[0.0] for name in ("text", "image", "all")), subset(study, "text+image")):
        assert told(row) == pytest.approx(own, abs=1e-6)


def test_scores_by_genre_agree_with_evaluate(first, study):
    with (study / "robustness_by_genre.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    test = first.predictions("test")
    assert {(row["subset"], row["genre"]) for row in rows} == {
        (s, g) for s in ("text", "image", "text+image") for g in test.genres
    }
    for row in rows:
        assert int(row["movies"]) == test.labels[:, test.genres.index(row["genre"])].sum()
        if row["subset"] == "text+image" and row["ap"]:
            assert float(row["ap"]) == pytest.approx(first.metrics[f"test/ap/{row['genre']}"], abs=1e-6)
    without_text = [row for row in rows if row["subset"] == "image"]
    assert np.mean([float(row["f1"]) for row in without_text]) == pytest.approx(subset(study, "image")["f1_macro"])
    assert np.mean([float(row["ap"]) for row in without_text if row["ap"]]) == pytest.approx(subset(study, "image")["ap_macro"])


def test_without_a_modality_the_scores_equal_those_of_the_other(study):
    assert told(curve(study, "text")[1.0]) == told(subset(study, "image")) != told(subset(study, "text"))
    assert told(curve(study, "image")[1.0]) == told(subset(study, "text"))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_lost_poster_is_scored_as_one_without_a_file(first, study, store, copy, share):
    ids = first.predictions("test").ids
    asked = scenarios(np.ones((len(ids), 2), dtype=bool), ["text", "image"], seed=0)
    (left,) = (s.present for s in asked if (s.about["modality"], s.about["share"]) == ("image", share))
    lost = [movie for movie, has in zip(ids, left[:, 1], strict=True) if not has]
    assert len(lost) == share * len(ids)
    for movie in lost:
        copy.poster(movie).unlink()
    again = Run(evaluate(first, "test", str(copy.folder), "0.5", Store(store)))
    assert told(curve(study, "image")[share]) == pytest.approx({s: again.metrics[f"test/{s}"] for s in SCORES}, abs=1e-6)
    assert told(curve(study, "image")[share]) != told(curve(study, "image")[0.0])


def test_a_run_of_one_modality_is_left_with_its_bias_alone(train, store):
    run = train("modalities=text", "fusion=none")
    folder = evaluate(run, "test", None, "0.5", Store(store), robustness_seed=0)
    assert [row["modality"] or row["subset"] for row in table(folder)] == ["text"] * (len(SHARES) + 1)
    test = run.predictions("test")
    alone = np.tile(1 / (1 + np.exp(-test.bias)), (len(test.ids), 1))
    row = curve(folder, "text")[1.0]
    assert told(row) == pytest.approx({s: scores(test.labels, alone, test.genres)[s] for s in SCORES}, abs=1e-6)
    assert row["movies_without_input"] == row["movies"] == len(test.ids)


@pytest.mark.parametrize(
    ("typed_wrong", "sentence"),
    [
        ("robustness=maybe", "^robustness=maybe is not possible: give true or false$"),
        ("robustness_seed=-1", "^robustness_seed=-1 is not possible: give a whole number from 0 on"),
    ],
)
def test_a_wrong_setting_is_refused_before_the_run_is_read(first, typed_wrong, sentence):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("evaluate", [f"run={first.folder}", typed_wrong])
    before = list(first.folder.rglob("*"))
    with pytest.raises(UserError, match=sentence):
        tasks.evaluate(config, Session())
    assert list(first.folder.rglob("*")) == before


def test_modality_dropout_helps_when_a_modality_is_missing(train, store):
    rows = {}
    for rate in (0, 0.5):
        run = train(
            *("data.movies=600", "data.modalities=video+metadata", "modalities=video+metadata", "seed=3"),
            *("trainer.max_epochs=15", "fusion.dim=32", f"encoder.metadata.modality_dropout={rate}"),
        )
        folder = evaluate(run, "test", None, "0.5", Store(store), robustness_seed=0)
        rows[rate] = curve(folder, "metadata")
        assert ("trained with modality_dropout: metadata 0.5" in (folder / "robustness.md").read_text()) == (rate > 0)
    loss = {rate: with_all[0.0]["ap_micro"] - with_all[1.0]["ap_micro"] for rate, with_all in rows.items()}
    assert loss[0.5] < loss[0] - 0.02
    assert rows[0.5][1.0]["ap_micro"] > rows[0][1.0]["ap_micro"] + 0.02
