"""Runs on a drawn split, a share of train, and movies that lack modalities."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gmu_lightning.data.store import Store
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.experiment.build import DatasetCache
from gmu_lightning.experiment.evaluate import evaluate
from gmu_lightning.run import Run
from gmu_lightning.sweep.dry_run import report
from gmu_lightning.sweep.job import perform_stacked

MISSING = ("data.missing.text=0.4", "data.missing.image=0.4")
DRAWN = ("data.split=random", "data.split_seed=2", "data.train_share=0.5", *MISSING)
QUICK = "trainer.max_epochs=1"


@pytest.fixture(scope="module")
def drawn(train, raw) -> Run:
    """A finished run with every draw."""
    return train(f"data.root={raw}", QUICK, *DRAWN)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_missing_json_names_the_absences_of_the_predictions(drawn):
    lost = read(drawn / "missing.json")
    assert {split: len(found) for split, found in lost.items()} == {"train": 16, "val": 8, "test": 8}
    for split in ("val", "test"):
        found = drawn.predictions(split)
        absent = {
            movie: [m for m, there in zip(found.modalities, has, strict=True) if not there]
            for movie, has in zip(found.ids, found.present, strict=True)
        }
        assert {movie: modalities for movie, modalities in absent.items() if modalities} == lost[split]
    audit = drawn.audit
    assert audit["missing"]["train"] == {"text": 8, "image": 8}
    assert audit["counts"] == {}
    assert audit["movies"] == {"train": 20, "val": 10, "test": 10}
    assert drawn.metrics["test/movies_without_input"] == 0
    assert not [warning for warning in drawn.status["warnings"] if warning.startswith("missing")]


def test_evaluate_repeats_the_draws(drawn, store):
    for split in ("test", "val"):
        again = Run(evaluate(drawn, split, None, "0.5", Store(store)))
        before, after = drawn.predictions(split), again.predictions(split)
        assert (before.ids, before.data_fingerprint) == (after.ids, after.data_fingerprint)
        assert (before.present == after.present).all()
        assert np.allclose(before.logits, after.logits, atol=1e-5)
    train = Run(evaluate(drawn, "train", None, "0.5", Store(store))).predictions("train")
    assert len(train.ids) == 20 and train.present.sum() == 24


def test_evaluate_repeats_the_draws_on_the_same_data_alone(drawn, raw, copy, store, caplog):
    there = Run(evaluate(drawn, "test", str(copy.folder), "0.5", Store(store))).predictions("test")
    assert there.ids == drawn.predictions("test").ids and not caplog.messages
    copy.change(copy.ids["test"][0], plot=["Quite another plot."])
    other = Run(evaluate(drawn, "test", str(copy.folder), "0.5", Store(store))).predictions("test")
    assert other.ids == copy.ids["test"] and other.present.all()
    assert any("other data than the run's, so split=random split_seed=2, train_share=0.5" in line for line in caplog.messages)


def test_the_run_s_seed_changes_no_draw(drawn, train, raw):
    other = train(f"data.root={raw}", QUICK, *DRAWN, "seed=7")
    assert read(other / "missing.json") == read(drawn / "missing.json")
    assert other.data_fingerprint == drawn.data_fingerprint
    assert (other.status["setting"], other.status["identity"] != drawn.status["identity"]) == (drawn.status["setting"], True)


@pytest.mark.heavy
def test_missing_contents_influence_nothing(train, tmp_path):
    """Vocabulary, columns of the table, normalisers, batches and weights are learned from the contents that are left."""
    from gmu_lightning.data.planted import generate

    names = ("text", "image", "metadata")
    folder = generate(tmp_path / "movies", movies=60, seed=0, modalities=names)
    options = (
        *(f"data.root={folder}", "data.modalities=text+image+metadata", "modalities=text+image+metadata", QUICK),
        *("encoder/text=bow", "encoder.text.min_count=1", "encoder.metadata.normalise=standardise"),
        *(f"data.missing.{m}=0.4" for m in names),
    )
    before = train(*options)
    change_missing(folder, read(before / "missing.json"))
    after = train(*options)
    assert after.data_fingerprint == before.data_fingerprint
    for name in ("audit.json", "missing.json"):
        assert read(after / name) == read(before / name)
    for split in ("val", "test"):
        assert (after.predictions(split).logits == before.predictions(split).logits).all()
    one, other = (torch.load(run / "checkpoints/best.ckpt", weights_only=True) for run in (before, after))
    assert one["gmu_lightning"]["preparations"] == other["gmu_lightning"]["preparations"]
    assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())


def change_missing(folder: Path, missing: dict[str, dict[str, list[str]]]) -> None:
    """Replace each content that a movie has lost by another one, longer and with words of its own."""
    lost = {movie: modalities for found in missing.values() for movie, modalities in found.items()}
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for row in rows:
        if "metadata" in lost.get(row["id"], ()):
            row.update({key: "unheard of" if isinstance(value, str) else 10**6 for key, value in row.items() if key != "id"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for movie, modalities in lost.items():
        path = folder / "dataset" / f"{movie}.json"
        if "text" in modalities:
            path.write_text(json.dumps(read(path) | {"plot": ["Unheard words " * 300]}))
        if "image" in modalities:
            Image.new("RGB", (80, 90), (1, 2, 3)).save(path.with_suffix(".jpeg"))


def test_features_are_encoded_once_for_all_draws(train, pretrained, store, monkeypatch):
    train(*pretrained, QUICK)
    before = {path.parent.name for path in store.glob("*/*/meta.json")}
    monkeypatch.setattr(Encoder, "build", lambda encoder: pytest.fail(f"{encoder.modality} is loaded"))
    run = train(*pretrained, QUICK, *DRAWN)
    assert [how["from_cache"] for how in run.environment["encode"].values()] == [True, True]
    assert {path.parent.name for path in store.glob("*/*/meta.json")} == before


@pytest.mark.heavy
def test_stacked_seeds_honour_the_draws_as_single_runs_do(train, job, pretrained):
    options = (*pretrained, QUICK, *DRAWN)
    jobs = [job(*options, f"seed={seed}", sweep="sweep") for seed in (1, 2)]
    perform_stacked(jobs, DatasetCache())
    single = train(*options, "seed=2")
    stacked = jobs[1].run
    assert read(stacked / "missing.json") == read(single / "missing.json")
    assert stacked.data_fingerprint == single.data_fingerprint
    assert (stacked.predictions("test").present == single.predictions("test").present).all()
    assert np.allclose(stacked.predictions("test").logits, single.predictions("test").logits, atol=1e-4)


@pytest.mark.heavy
def test_modality_dropout_comes_on_top(train, raw, drawn):
    run = train(f"data.root={raw}", QUICK, *DRAWN, "encoder.text.modality_dropout=0.5")
    assert read(run / "missing.json") == read(drawn / "missing.json")
    assert (run.predictions("test").logits != drawn.predictions("test").logits).any()


def test_a_dry_run_names_the_draws(job, raw):
    lines, problems = report([job(f"data.root={raw}", *DRAWN)])
    words = "20/10/10 movies (split=random split_seed=2, train_share=0.5, missing.text=0.4 missing.image=0.4 in train, val, test)"
    assert not problems and sum(words in line and "prepared" in line for line in lines) == 2


def test_an_export_of_such_a_run_predicts_whole_movies(drawn, raw, tmp_path):
    from gmu_lightning import load

    movies = [{"id": id, "plot": read(raw / f"dataset/{id}.json")["plot"][0], "poster": raw / f"dataset/{id}.jpeg"} for id in ID]
    found = load(drawn.folder).predict(movies)
    assert found["present/text"].all() and found["present/image"].all()


ID = ("0000001", "0000002", "0000060")


@pytest.mark.heavy
def test_an_older_run_without_these_options_still_evaluates(train, raw, store, tmp_path):
    run = train(f"data.root={raw}", QUICK)
    older = Run(shutil.copytree(run.folder, tmp_path / "older"))
    config = older.config
    for key in ("split", "split_seed", "train_share", "missing"):
        del config["data"][key]
    (older / "config.yaml").write_text(json.dumps(config))
    checkpoint = torch.load(older / "checkpoints/best.ckpt", weights_only=True)
    torch.save(
        {**checkpoint, "gmu_lightning": {**checkpoint["gmu_lightning"], "config": config}}, older / "checkpoints/best.ckpt"
    )
    again = Run(evaluate(older, "test", None, "0.5", Store(store)))
    assert again.metrics["test/f1_micro"] == run.metrics["test/f1_micro"]
