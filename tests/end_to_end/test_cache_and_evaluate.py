"""Cached features, prepared raw data, and finished runs scored again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import f1_score

from gmu_lightning.config.groups import choices_of
from gmu_lightning.config.identity import identity
from gmu_lightning.config.schema import RunConfig
from gmu_lightning.data.planted import generate
from gmu_lightning.data.store import Store
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.experiment import build
from gmu_lightning.experiment.evaluate import evaluate, restored
from gmu_lightning.experiment.prepare import prepare
from gmu_lightning.movie import UserError
from gmu_lightning.run import Run
from gmu_lightning.sweep.dry_run import report
from gmu_lightning.sweep.job import perform

from ..data.moviescope_files import write
from .networks import write_resnet
from .shell import SMOKE, environment, last_line, typed


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often the network of each modality is loaded while inside."""
    loaded: Counter[str] = Counter()
    original = Encoder.build

    def count(encoder: Encoder) -> None:
        loaded[encoder.modality] += encoder.network is None
        original(encoder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "build", count)
        yield loaded


class Cached(NamedTuple):
    run: Run
    loaded: Counter[str]


@pytest.fixture(scope="module")
def cached(train, pretrained) -> Cached:
    """The first run through the frozen encoders."""
    with counted() as loaded:
        return Cached(train(*pretrained), loaded)


AT_THE_FIRST_STEP = """
import sys
from gmu_lightning.callbacks import Determinism

begin = Determinism.on_train_batch_start


def look(self, *given):
    Determinism.on_train_batch_start = begin
    heavy = {"transformers", "timm", "torchvision", "scipy", "matplotlib", "wandb", "pandas"}
    print("imported:", *sorted(heavy & set(sys.modules)))
    begin(self, *given)


Determinism.on_train_batch_start = look
from gmu_lightning.train import cli

cli()
"""


def test_a_run_on_cached_features_imports_no_encoder_library(cached, pretrained, tmp_path, store):
    command = [sys.executable, "-c", AT_THE_FIRST_STEP, *SMOKE, *pretrained, "seed=2", "hydra.run.dir=run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(store), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "imported:"
    assert Run(tmp_path / "run").status["state"] == "finished"


@pytest.fixture(scope="module")
def first(train, raw) -> Run:
    """A finished run on raw files, never changed."""
    return train(f"data.root={raw}")


@pytest.fixture
def finished(first, tmp_path) -> Run:
    """A copy of it, to be evaluated and damaged."""
    return Run(shutil.copytree(first.folder, tmp_path / "finished"))


def contents(folder: Path, *, beside: str = "-") -> dict[str, str]:
    """A hash of every file, those under `beside` left out."""
    files = [path for path in folder.rglob("*") if path.is_file() and beside not in path.relative_to(folder).parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def columns_in(store: Path) -> set[str]:
    """Return the finished entries of the store."""
    return {str(path.parent.relative_to(store)) for path in store.glob("*/*/meta.json")}


def checkpoint(run: Run) -> dict[str, Any]:
    return torch.load(run / "checkpoints/best.ckpt", weights_only=True)


def change_config(run: Run, change: Callable[[dict[str, Any]], Any]) -> None:
    config = run.config
    change(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_a_frozen_encoder_is_loaded_once_and_read_ever_after(cached, train, pretrained, store):
    assert cached.loaded == {"text": 1, "image": 1}
    before = columns_in(store)
    with counted() as loaded:
        again = train(*pretrained)
        train(*pretrained, "fusion=gmu_softmax", "seed=2", "encoder.text.normalise=layer")
    assert not +loaded
    assert columns_in(store) == before
    how = {"backend": "torch", "precision": "float32"}
    for run, from_cache in ((cached.run, False), (again, True)):
        told = json.loads((run / "environment.json").read_text())["encode"]
        assert told == {modality: how | {"from_cache": from_cache} for modality in ("text", "image")}
    assert np.array_equal(again.predictions("test").logits, cached.run.predictions("test").logits)


def test_a_run_with_settings_that_are_gone_is_scored_again(cached, store, tmp_path):
    old = Run(shutil.copytree(cached.run.folder, tmp_path / "old"))
    gone = {"max_gb": None, "precision": "float32", "blocks": True}
    change_config(old, lambda config: config["store"].update(gone) or config["encode"].update(backend="onnxruntime"))
    assert identity(old.config) == cached.run.status["identity"]
    again = Run(evaluate(old, "test", None, "0.5", Store(store)))
    assert np.array_equal(again.predictions("test").logits, cached.run.predictions("test").logits)


def test_a_run_with_frozen_first_blocks_is_scored_again(train, pretrained, store):
    run = train(*pretrained, "encoder.text.freeze=1", "encoder.image.freeze=1", "encoder.text.lr=1e-3", "scheduler=constant")
    again = Run(evaluate(run, "test", None, "0.5", Store(store)))
    assert again.predictions("test").logits == pytest.approx(run.predictions("test").logits, abs=1e-5)


def test_a_plan_counts_frozen_first_blocks_in_every_step(cached, job, pretrained):
    lines = report([job(*pretrained, "encoder.text.freeze=1")])[0]
    (line,) = [line for line in lines if line.startswith("data ") and "text=" in line]
    assert line.endswith("computed in every step")


def test_other_weights_and_another_pooling_are_other_features(cached, train, pretrained, tmp_path):
    with counted() as loaded:
        train(*pretrained, "encoder.text.pool=cls")
    assert +loaded == {"text": 1}
    torch.manual_seed(1)
    write_resnet(tmp_path)
    with counted() as loaded:
        train(*pretrained, f"encoder.image.name={tmp_path}")
    assert +loaded == {"image": 1}


def test_stored_features_equal_those_computed_in_the_step(cached, store):
    data, model = restored(RunConfig.of(cached.run.config), checkpoint(cached.run), Store(store))
    features = data.columns
    table = data.table
    columns = {m: build.prepare_column(table, e, Store(store), fitted=True)[1] for m, e in model.encoders.items()}
    for encoder in model.encoders.values():
        encoder.build()
    (batch,) = data.over(table, columns).loader("test")  # in the order of their lengths
    order = [cached.run.predictions("test").ids.index(movie) for movie in batch.ids]
    with torch.no_grad():
        logits = model.eval()(batch).logits
        for modality, encoder in model.encoders.items():
            computed = encoder(batch.inputs[modality]).vector
            stored = features[modality].batch(table.rows("test")[order]).vector
            assert computed.std(dim=0).max() > 0.01, "the same features for every movie would show nothing"
            assert computed.numpy() == pytest.approx(stored.numpy(), abs=1e-5)
    assert logits.numpy() == pytest.approx(cached.run.predictions("test").logits[order], abs=1e-5)


def test_frozen_weights_are_counted_and_are_in_no_checkpoint(cached):
    metrics = cached.run.metrics
    assert metrics["parameters/trainable"] < metrics["parameters/total"]
    assert not [name for name in checkpoint(cached.run)["state_dict"] if name.startswith("encoders.")]


@pytest.mark.parametrize(
    ("how", "stays"),
    [
        (("encoder.text.freeze=none",), ()),
        (("encoder.text.freeze=1",), ("embeddings.", "encoder.layer.0.")),
        (("encoder.text.freeze=0", "encoder.text.unfreeze_at_epoch=1"), ()),
    ],
    ids=["all", "the last block", "all from the second epoch on"],
)
def test_a_fine_tuned_run_is_evaluated_with_its_learned_weights(how, stays, train, pretrained, store):
    run, again = (train(*pretrained, *how, "encoder.text.lr=1e-3", "scheduler=constant") for _ in range(2))
    learned = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    learned = {name.removeprefix("encoders.text.network."): t for name, t in learned.items() if name.startswith("encoders.text.")}
    encoder = build.build_encoders(RunConfig.of(run.config).encoder)["text"]
    encoder.build()
    before = encoder.network.state_dict()
    used = [name for name, _ in encoder.network.named_parameters() if not name.startswith("pooler.")]
    assert {name for name in used if torch.equal(before[name], learned[name])} == {n for n in used if n.startswith(stays)}
    assert np.array_equal(again.predictions("test").logits, run.predictions("test").logits)
    evaluated = Run(evaluate(run, "test", None, "0.5", Store(store)))
    assert evaluated.predictions("test").logits == pytest.approx(run.predictions("test").logits, abs=1e-5)


def test_augmented_posters_are_encoded_in_each_step(cached, train, pretrained, store, capsys):
    before = columns_in(store)
    with counted() as loaded:
        run = train(*pretrained, "encoder.image.augment=true")
    assert +loaded == {"image": 1}
    assert "encoder.image.augment=true" in capsys.readouterr().err
    assert columns_in(store) == before
    image = {n: t for n, t in checkpoint(run)["state_dict"].items() if n.startswith("encoders.image.") and "running" in n}
    weights = build.build_encoders(RunConfig.of(run.config).encoder)["image"]
    weights.build()
    assert image.keys()
    assert all(torch.equal(t, weights.state_dict()[n.removeprefix("encoders.image.")]) for n, t in image.items())


def test_evaluate_repeats_the_scores_and_keeps_the_runs_files(finished, store):
    before = contents(finished.folder)
    done = typed("evaluate", f"run={finished.folder}", folder=finished.folder.parent, store=store)
    assert done.returncode == 0, done.stderr
    assert contents(finished.folder, beside="evaluate") == before
    (folder,) = (finished / "evaluate").iterdir()
    again = Run(folder)
    assert contents(folder).keys() == {"audit.json", "metrics.json", "predictions/test.parquet"}
    assert (folder / "audit.json").read_text() == (finished / "audit.json").read_text()
    known = {name: value for name, value in finished.metrics.items() if name.startswith("test/") and "@" not in name}
    assert again.metrics == pytest.approx(known, abs=1e-6)
    old, new = finished.predictions("test"), again.predictions("test")
    assert (new.ids, new.genres, new.data_fingerprint) == (old.ids, old.genres, old.data_fingerprint)
    assert new.logits == pytest.approx(old.logits, abs=1e-6)
    assert f"{known['test/f1_micro']:.4f}" in done.stdout


def test_evaluate_reads_the_runs_cached_features_anywhere(finished, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = typed("evaluate", f"run={finished.folder}", folder=elsewhere, store=None)
    assert done.returncode == 0, done.stderr
    assert not list(elsewhere.iterdir())
    assert "preparing" not in done.stderr


def test_an_unfinished_run_is_evaluated_with_a_warning(finished, tmp_path, store, capsys):
    cut = Run(shutil.copytree(finished.folder, tmp_path / "cut"))
    cut.end("failed", "interrupted")
    evaluate(cut, "test", None, "0.5", Store(store))
    assert "cut did not finish: what is scored is its best checkpoint so far" in capsys.readouterr().err


def test_any_split_can_be_evaluated(finished, store):
    again = Run(evaluate(finished, "val", None, "0.5", Store(store)))
    assert again.metrics["val/f1_micro"] == pytest.approx(finished.metrics["val/f1_micro"], abs=1e-6)
    train = Run(evaluate(finished, "train", None, "0.5", Store(store)))
    assert train.metrics["train/movies"] == len(train.predictions("train").ids) == 40


def test_a_threshold_of_ones_own_stands_beside_the_plain_scores(finished, store):
    again = Run(evaluate(finished, "test", None, "0.3", Store(store)))
    test = again.predictions("test")
    expected = {
        f"test/f1_{average}{name}": f1_score(test.labels, test.probabilities >= at, average=average, zero_division=0)
        for name, at in (("", 0.5), ("@0.3", 0.3))
        for average in ("micro", "macro", "weighted", "samples")
    }
    assert {name: again.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert expected["test/f1_micro"] != expected["test/f1_micro@0.3"]
    assert test.threshold == 0.3


@pytest.mark.parametrize("rule", ["val", "val_per_genre"])
def test_thresholds_tuned_on_val_are_those_of_the_run(finished, store, rule):
    again = Run(evaluate(finished, "test", None, rule, Store(store)))
    for average in ("micro", "macro", "weighted", "samples"):
        name = f"test/f1_{average}@{rule}"
        assert again.metrics[name] == pytest.approx(finished.metrics[name], abs=1e-6)
    count = 1 if rule == "val" else len(again.predictions("test").genres)
    assert np.size(again.predictions("test").threshold) == count


def test_data_may_lie_elsewhere(finished, store, copy):
    moved = Run(evaluate(finished, "test", str(copy.folder), "0.5", Store(store)))
    assert moved.metrics["test/ap_micro"] == pytest.approx(finished.metrics["test/ap_micro"], abs=1e-6)
    copy.flip("test")
    flipped = Run(evaluate(finished, "test", str(copy.folder), "0.5", Store(store)))
    assert flipped.predictions("test").logits == pytest.approx(finished.predictions("test").logits, abs=1e-6)
    assert (flipped.predictions("test").labels != finished.predictions("test").labels).all()


def test_a_genre_absent_from_other_data_leaves_the_scores_equal(finished, store, copy):
    missing, other = copy.genres[:2]
    for movie in copy.ids["train"]:
        genres = [genre for genre in copy.record(movie)["genres"] if genre != missing]
        copy.change(movie, genres=genres or [other])
    again = Run(evaluate(finished, "test", str(copy.folder), "0.5", Store(store)))
    assert again.metrics == pytest.approx({key: finished.metrics[key] for key in again.metrics}, abs=1e-6)


def test_a_run_of_a_gpu_is_evaluated_where_there_is_none(finished, store, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    moved = Run(tmp_path / "run")
    shutil.copytree(finished.folder, moved.folder)
    config = moved.config
    config["trainer"]["accelerator"] = "gpu"
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    again = Run(evaluate(moved, "test", None, "0.5", Store(store)))
    assert again.metrics["test/ap_micro"] == pytest.approx(finished.metrics["test/ap_micro"], abs=1e-6)
    assert "trainer.accelerator=gpu, which this machine lacks: evaluated on the CPU" in capsys.readouterr().err


def test_other_data_are_scored_with_the_runs_own_genres(finished, store, tmp_path):
    other = generate(tmp_path / "other", movies=90, seed=5)
    again = Run(evaluate(finished, "test", str(other), "0.5", Store(store))).predictions("test")
    assert len(again.ids) == 15
    assert again.genres == finished.predictions("test").genres
    for n, movie in enumerate(again.ids):
        truly = json.loads((other / f"dataset/{movie}.json").read_text())["genres"]
        assert {genre for genre, yes in zip(again.genres, again.labels[n], strict=True) if yes} == set(truly)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda config: config["fusion"].update(_target_="os.mkdir", path="made"), "names the class os.mkdir"),
        (lambda config: config["callbacks"].update(mine={"_target_": "os.mkdir", "path": "made"}), "names the class os.mkdir"),
        (lambda config: config["data"].update(root="${oc.env:HOME}"), r"holds the interpolation \$\{oc.env:HOME\}"),
        (lambda config: config.update(hydra={"callbacks": {}}), "holds a hydra node"),
    ],
    ids=["a class of another package", "a callback", "an interpolation", "a hydra node"],
)
def test_a_strangers_configuration_runs_nothing(finished, store, monkeypatch, change, sentence):
    monkeypatch.chdir(finished.folder)
    change_config(finished, change)
    with pytest.raises(UserError, match=sentence):
        evaluate(finished, "test", None, "0.5", Store(store))
    assert not (finished / "made").exists()
    assert not (finished / "evaluate").exists()


class MakesAFolder:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_strangers_checkpoint_runs_nothing(finished, store, tmp_path):
    torch.save({**checkpoint(finished), "extra": MakesAFolder(tmp_path / "made")}, finished / "checkpoints/best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt is not a checkpoint of plain tensors and containers"):
        evaluate(finished, "test", None, "0.5", Store(store))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("threshold", "problem"), [("best", "is no rule: give a number"), ("1.5", "is no probability")])
def test_an_impossible_threshold_is_refused(finished, store, threshold, problem):
    with pytest.raises(UserError, match=f"threshold={threshold} {problem}"):
        evaluate(finished, "test", None, threshold, Store(store))


def test_prepare_generates_equal_movies_for_equal_seeds(tmp_path, store):
    wanted = ("data=planted", "data.root=made", "data.movies=60", "data.seed=1", "hydra.run.dir=prepared")
    done = typed("prepare", *wanted, folder=tmp_path, store=store)
    assert done.returncode == 0, done.stderr
    made = contents(tmp_path / "made")
    assert made == contents(generate(tmp_path / "again", movies=60, seed=1))
    assert made != contents(generate(tmp_path / "other", movies=60, seed=2))
    split = json.loads((tmp_path / "made/split.json").read_text())
    assert {name: len(ids) for name, ids in split.items()} == {"train": 40, "dev": 10, "test": 10}
    ids = [movie for name in ("train", "dev", "test") for movie in split[name]]
    files = {f"dataset/{movie}.{kind}" for movie in ids for kind in ("json", "jpeg")}
    assert made.keys() == files | {"split.json", "truth.jsonl", "genres.json"}
    truth = [json.loads(line) for line in (tmp_path / "made/truth.jsonl").read_text().splitlines()]
    assert [row["id"] for row in truth] == ids
    assert all(row.keys() == {"id", "split", "switch", "level", "claims"} for row in truth)
    assert set(json.loads((tmp_path / "made/genres.json").read_text()).values()) == {"switch", "text", "image"}
    assert contents(tmp_path / "prepared").keys() == {"audit.json", "genres.png", "genres.svg"}
    assert last_line(done.stdout).startswith("raw: 40 train, 10 val, 10 test movies, 10 genres")


def test_what_was_prepared_is_not_prepared_again(job, copy, tmp_path, store, capsys):
    copy.poster(copy.ids["test"][0]).write_bytes(b"")
    small = ("encoder/text=tiny", "encoder/image=tiny", "trainer.max_epochs=1", "trainer.threads=1")
    made = job("data=mmimdb", f"data.root={copy.folder}", *small, preset=())
    prepare(made.config, tmp_path / "prepared")
    assert contents(tmp_path / "prepared").keys() == {"audit.json", "genres.png", "genres.svg"}
    audit = json.loads((tmp_path / "prepared/audit.json").read_text())
    assert (audit["layout"], audit["counts"]) == ("raw", {"unreadable_image": 1})
    assert "preparing image" in capsys.readouterr().err
    before = contents(store / "columns")
    perform(made)
    assert "preparing" not in capsys.readouterr().err
    assert contents(store / "columns") == before
    assert json.loads((made.run / "audit.json").read_text()) == audit


SMALL = {  # per preset: the line that makes it run on a CPU
    "lecture_mmimdb": ("encoder/text=minilm", "encoder/image=efficientnet_lite0"),
    "lecture_moviescope": ("encoder/text=minilm", "encoder/audio=mean"),
    "mult_gmu": ("encoder/text=minilm", "encoder/audio=mean", "fusion.dim=96"),
    "mmbt": ("encoder/text=minilm", "encoder/image=efficientnet_lite0", "encoder.image.num_tokens=null"),
}


@pytest.fixture
def extracted(raw, tmp_path) -> Path:
    """The movies of `raw` as MM-IMDb's HDF5 file, of vectors drawn at random."""
    import h5py

    split = json.loads((raw / "split.json").read_text())
    ids = [movie for name in ("train", "dev", "test") for movie in split[name]]
    genres = [set(json.loads((raw / f"dataset/{movie}.json").read_text())["genres"]) for movie in ids]
    names = sorted(set.union(*genres))
    random = np.random.default_rng(0)
    (tmp_path / "split.json").write_text(json.dumps(split))
    with h5py.File(tmp_path / "multimodal_imdb.hdf5", "w") as file:
        file["features"] = random.normal(size=(len(ids), 300)).astype(np.float32)
        file["vgg_features"] = random.normal(size=(len(ids), 4096)).astype(np.float32)
        file["genres"] = np.array([[name in own for name in names] for own in genres], dtype=np.int32)
        file["genres"].attrs["target_names"] = json.dumps(names)
        file["imdb_ids"] = np.array(ids, dtype="S7")
    return tmp_path


@pytest.mark.parametrize("experiment", choices_of("experiment"))
def test_every_preset_trains(experiment, settled, job, raw, extracted):
    short = (f"experiment={experiment}", "trainer.max_epochs=1", "trainer.threads=1", *SMALL.get(experiment, ()))
    chosen = settled(*short)
    root = extracted if chosen.data.node.get("layout") == "hdf5" else raw
    if chosen.choices["data"] == "moviescope":
        root = write(extracted / "moviescope", "full", (12, 6, 6))
    made = job(*short, "data.movies=60" if chosen.choices["data"] == "planted" else f"data.root={root}", preset=())
    perform(made)
    assert made.run.metrics["epochs"] == 1
    assert made.run.metrics["parameters/trainable"] > 0
