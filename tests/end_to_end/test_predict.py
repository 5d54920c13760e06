"""New movies are predicted from raw contents: the same numbers on every way, rows with problems, and a killed prediction."""

from __future__ import annotations

import csv
import gc
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from PIL import Image, PngImagePlugin

import gmu_lightning
from gmu_lightning.config.schema import RunConfig
from gmu_lightning.data.planted import generate
from gmu_lightning.data.store import Store
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.experiment import build
from gmu_lightning.metrics import tune_per_genre, tune_threshold
from gmu_lightning.movie import UserError
from gmu_lightning.prediction import classifier as module
from gmu_lightning.prediction import inputs
from gmu_lightning.prediction.classifier import Classifier
from gmu_lightning.prediction.command import predict_file, predict_typed
from gmu_lightning.prediction.inputs import Inputs
from gmu_lightning.prediction.output import Parts
from gmu_lightning.run import Run
from gmu_lightning.sweep.job import perform

from .shell import environment, last_line, typed


def rows_of(run: Run, store: Path, split: str = "test") -> list[dict[str, Any]]:
    """Return the raw contents of a split as rows of a table, with absolute paths of files."""
    table = build.load_table(RunConfig.of(run.config), Store(store), fitted=True)
    names = {"text": "plot", "image": "poster", "video": "video", "audio": "audio"}
    rows = []
    for n in table.rows(split):
        content = table.movies[n].content
        cells = {names[m]: str(getattr(value, "path", value)) for m, value in content.items() if m != "metadata"}
        rows.append({"id": table.movies[n].id, **cells, **content.get("metadata", {})})
    return rows


@pytest.fixture(scope="module")
def frozen(train, pretrained, raw) -> Run:
    """A run on features of frozen encoders."""
    return train(*pretrained, f"data.root={raw}")


@pytest.fixture(scope="module")
def second(train, pretrained, raw) -> Run:
    """The same with another seed."""
    return train(*pretrained, f"data.root={raw}", "seed=2")


@pytest.fixture(scope="module")
def movies(frozen, store) -> list[dict[str, Any]]:
    return rows_of(frozen, store)


@pytest.fixture
def table(movies, raw, tmp_path) -> Path:
    """The test movies as a CSV file beside their posters."""
    folder = tmp_path / "new movies"
    folder.mkdir()
    for row in movies:
        shutil.copy(row["poster"], folder / Path(row["poster"]).name)
    pd.DataFrame([{**row, "poster": Path(row["poster"]).name} for row in movies]).to_csv(folder / "movies.csv", index=False)
    return folder / "movies.csv"


def changed(table: Path, n: int, **cells: Any) -> None:
    """Change cells of a row of a CSV file."""
    frame = pd.read_csv(table, dtype=object)
    for name, value in cells.items():
        frame.loc[n, name] = value
    frame.to_csv(table, index=False)


def logits(frame: pd.DataFrame, run: Run) -> np.ndarray:
    return frame[[f"logit/{genre}" for genre in run.predictions("test").genres]].to_numpy()


def numbers(frame: pd.DataFrame) -> np.ndarray:
    return frame[[name for name in frame if name.startswith(("prob/", "prob_sd/", "logit/", "contribution/"))]].to_numpy(
        dtype=float
    )


def predicted(classifier: Classifier, table: Path, output: Path, **options: Any) -> None:
    predict_file(classifier, str(table), output, {}, classifier.form(options.pop("threshold", 0.5)), options.pop("strict", False))


def test_every_way_gives_the_numbers_of_the_run(frozen, movies, table, tmp_path, store):
    done = typed("predict", f"run={frozen.folder}", f"input={table}", "output=out.parquet", folder=tmp_path, store=None)
    assert done.returncode == 0, done.stderr
    assert last_line(done.stdout) == f"{len(movies)} of {len(movies)} rows are predicted, in out.parquet"
    test = frozen.predictions("test")
    by_file = pd.read_parquet(tmp_path / "out.parquet")
    classifier = gmu_lightning.load(frozen.folder)
    by_frame = classifier.predict(pd.DataFrame(movies))
    one = movies[0]
    words = (f"movie.text={one['plot']}", f"movie.image={one['poster']}", "output=one.jsonl")
    done = typed("predict", f"run={frozen.folder}", *words, folder=tmp_path, store=None)
    assert done.returncode == 0, done.stderr
    alone = json.loads((tmp_path / "one.jsonl").read_text())
    assert list(by_file) == list(by_frame) == list(alone)
    assert by_file["id"].tolist() == by_frame["id"].tolist() == test.ids
    assert logits(by_file, frozen) == pytest.approx(test.logits, abs=1e-5)
    for found in (by_frame, classifier.predict(movies), classifier.predict(table)):
        assert numbers(found).tolist() == numbers(by_file).tolist()
    assert [alone[f"logit/{genre}"] for genre in test.genres] == pytest.approx(test.logits[0].tolist(), abs=1e-5)
    assert by_frame["genres"].tolist() == [
        [genre for genre, probability in zip(test.genres, row, strict=True) if probability >= 0.5] for row in test.probabilities
    ]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_contributions_sum_to_the_logit(frozen, movies):
    classifier = gmu_lightning.load(frozen.folder)
    found, bias = classifier.predict(movies), classifier.form().bias
    for c, genre in enumerate(classifier.genres):
        parts = sum(found[f"contribution/{m}/{genre}"] for m in ("text", "image"))
        assert (parts + bias[c]).to_numpy() == pytest.approx(found[f"logit/{genre}"].to_numpy(), abs=1e-5)


OTHERS = {
    "from scratch": (),
    "tuned text": ("encoder/text=minilm", "encoder.text.freeze=none", "scheduler=constant"),
    "late": ("fusion=late",),
    "mmbt": ("encoder/text=minilm", "fusion=mmbt", "encoder.text.freeze=all", "scheduler=constant"),
    "bottleneck": ("encoder/text=minilm", "fusion=bottleneck"),
    "plots": ("modalities=text", "fusion=none"),
}


@pytest.mark.parametrize("how", OTHERS)
def test_every_kind_of_run_predicts_its_own_numbers(how, train, pretrained, raw, store):
    networks = pretrained if "encoder/text=minilm" in OTHERS[how] else ()
    run = train(*networks, *OTHERS[how], f"data.root={raw}")
    found = gmu_lightning.load(run.folder).predict(rows_of(run, store))
    test = run.predictions("test")
    assert logits(found, run) == pytest.approx(test.logits, abs=1e-5)
    assert (test.contributions is not None) is any(name.startswith("contribution/") for name in found)


def test_a_multiclass_run_predicts_one_label(job, tmp_path):
    words = {"Drama": "tears and love", "War": "guns and tanks", "Comedy": "jokes and laughs"}
    rows = [{"id": str(n), "plot": f"{words[genre]} {n}", "genre": genre} for n in range(20) for genre in words]
    rows = [{**row, "id": f"{row['id']}-{row['genre']}"} for row in rows]
    pd.DataFrame(rows).to_csv(tmp_path / "movies.csv", index=False)
    small = ("encoder/text=tiny", "trainer.max_epochs=2", "trainer.threads=1", "modalities=text", "fusion=none")
    made = job("data=files", f"data.root={tmp_path / 'movies.csv'}", "data.task=multiclass", *small, preset=())
    perform(made)
    classifier = gmu_lightning.load(made.run.folder)
    test = made.run.predictions("test")
    found = classifier.predict(tmp_path / "movies.csv").set_index("id").loc[test.ids]
    assert logits(found, made.run) == pytest.approx(test.logits, abs=1e-5)
    assert found[[f"prob/{genre}" for genre in test.genres]].to_numpy() == pytest.approx(test.probabilities, abs=1e-6)
    assert found["genres"].tolist() == [[test.genres[c]] for c in test.logits.argmax(axis=1)]
    with pytest.raises(UserError, match=r"trained with data\.task=multiclass, which predicts the most probable label without"):
        classifier.form("val")


@pytest.fixture(scope="module")
def of_arrays(train) -> Run:
    """A run on plots, arrays of frames, and a table of metadata."""
    return train("data.modalities=text+video+metadata", "modalities=text+video+metadata")


def test_arrays_and_metadata_are_read_as_in_the_run(of_arrays, store):
    rows = rows_of(of_arrays, store)
    classifier = gmu_lightning.load(of_arrays.folder)
    test = of_arrays.predictions("test")
    assert logits(classifier.predict(rows), of_arrays) == pytest.approx(test.logits, abs=1e-5)
    in_memory = [{**row, "video": np.load(row["video"])} for row in rows]
    assert logits(classifier.predict(in_memory), of_arrays) == pytest.approx(test.logits, abs=1e-5)
    without = [{name: cell for name, cell in row.items() if name in ("id", "plot")} for row in rows]
    found = classifier.predict(without)
    assert found["present/text"].all() and not found[["present/video", "present/metadata"]].any(axis=None)
    assert not np.allclose(logits(found, of_arrays), test.logits)


def test_a_run_on_features_refuses_raw_files(of_arrays, tmp_path):
    (tmp_path / "trailer.mp4").write_bytes(b"any")
    with pytest.raises(UserError, match=r"trained on extracted features of video, so it cannot read .*trailer\.mp4: give arrays"):
        gmu_lightning.load(of_arrays.folder).predict([{"plot": "a", "video": str(tmp_path / "trailer.mp4")}])


def test_metadata_is_typed_by_its_columns(of_arrays, tmp_path):
    done = typed("predict", f"run={of_arrays.folder}", "movie.metadata.year=1994", "output=a.jsonl", folder=tmp_path, store=None)
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert (row["present/metadata"], row["present/text"]) == (True, False)
    classifier = gmu_lightning.load(of_arrays.folder)
    with pytest.raises(UserError, match=r"movie\.metadata\.yeer is no column .*: did you mean movie\.metadata\.year"):
        predict_typed(classifier, {"metadata.yeer": "1994"}, None, classifier.form(), strict=False)


AWKWARD = "It's \"a boy\", a = b; {x: [1,2)} ${oc.env:HOME}\n~ and 'more'"


def test_text_arrives_as_typed(frozen, tmp_path, capsys):
    done = typed("predict", f"run={frozen.folder}", f"movie.text={AWKWARD}", "output=a.jsonl", folder=tmp_path, store=None)
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "a.jsonl").read_text())
    found = gmu_lightning.load(frozen.folder).predict({"text": AWKWARD})
    assert [row[f"logit/{genre}"] for genre in frozen.predictions("test").genres] == logits(found, frozen)[0].tolist()


def test_one_movie_is_shown_on_the_terminal(frozen, second, movies, capsys):
    classifier = gmu_lightning.load([frozen.folder, second.folder])
    predict_typed(classifier, {"text": movies[0]["plot"]}, None, classifier.form(), strict=False)
    lines = capsys.readouterr().out.splitlines()
    found = classifier.predict({"text": movies[0]["plot"]}).iloc[0]
    predicted_genres = sorted(found["genres"], key=lambda genre: -found[f"prob/{genre}"])
    assert lines[0] == (", ".join(predicted_genres) or "no genre reaches the threshold")
    assert lines[2].split() == ["genre", "probability", "sd", "of", "runs", "text"]
    first = max(classifier.genres, key=lambda genre: found[f"prob/{genre}"])
    cells = [found[f"{name}/{first}"] for name in ("prob", "prob_sd", "contribution/text")]
    assert lines[3].removeprefix(first).split() == [f"{cells[0]:.3f}", f"{cells[1]:.3f}", f"{cells[2]:+.2f}"]


def test_an_unreadable_poster_leaves_the_other_rows_alone(frozen, table, tmp_path):
    classifier = gmu_lightning.load(frozen.folder)
    whole = classifier.predict(table)
    posters = pd.read_csv(table)["poster"]
    (table.parent / posters[2]).write_bytes(b"no picture")
    (table.parent / posters[4]).unlink()
    changed(table, 5, poster=None)
    changed(table, 6, poster=None, plot=None)
    changed(table, 7, poster="../../../etc/passwd.jpg")
    predicted(classifier, table, tmp_path / "out.parquet")
    found = pd.read_parquet(tmp_path / "out.parquet")
    others = [n for n in range(len(whole)) if n not in (2, 4, 5, 6, 7)]
    assert numbers(found)[others] == pytest.approx(numbers(whole)[others], abs=1e-5)
    assert found["present/image"].tolist() == [n not in (2, 4, 5, 6, 7) for n in range(len(whole))]
    assert found["problem"].isna().tolist() == [n not in (2, 4, 6, 7) for n in range(len(whole))]
    assert posters[2] in found["problem"][2] and "is not used" in found["problem"][2]
    assert "no such file" in found["problem"][4]
    assert found["problem"][6] == "it has no text and no image"
    assert found["genres"][6] is None and np.isnan(numbers(found)[6]).all()
    assert np.isfinite(numbers(found)[[2, 4, 5, 7]]).all()
    assert numbers(found)[2] == pytest.approx(numbers(classifier.predict({"plot": pd.read_csv(table)["plot"][2]}))[0], abs=1e-5)


def test_python_warns_of_rows_with_problems(frozen, caplog):
    gmu_lightning.load(frozen.folder).predict([{"text": "A boy.", "image": "nowhere.jpg"}, {"text": "A dog."}])
    assert "1 of 2 rows have a problem, which the column `problem` describes" in caplog.text


def test_strict_and_hopeless_predictions_exit_with_1(frozen, table, tmp_path):
    classifier = gmu_lightning.load(frozen.folder)
    (table.parent / pd.read_csv(table)["poster"][2]).write_bytes(b"no picture")
    with pytest.raises(
        UserError, match=r"strict=true, and 1 of 10 rows have a problem: the first is \w+, and image .* is not used"
    ):
        predicted(classifier, table, tmp_path / "strict.csv", strict=True)
    assert len(pd.read_csv(tmp_path / "strict.csv")) == 10
    (tmp_path / "none.csv").write_text("id,plot\n1,\n2,\n")
    with pytest.raises(UserError, match="no row of 2 could be predicted: the first is 1, and it has no text and no image"):
        predicted(classifier, tmp_path / "none.csv", tmp_path / "hopeless.csv")
    assert pd.read_csv(tmp_path / "hopeless.csv")["problem"].tolist() == ["it has no text and no image"] * 2
    predicted(classifier, table, tmp_path / "fine.csv")


def test_an_unreadable_typed_poster_is_shown_as_a_problem(frozen, tmp_path, capsys):
    (tmp_path / "poster.jpg").write_bytes(b"no picture")
    classifier = gmu_lightning.load(frozen.folder)
    given = {"text": "a boy", "image": str(tmp_path / "poster.jpg")}
    predict_typed(classifier, given, None, classifier.form(), strict=False)
    assert "problem: image " in capsys.readouterr().out
    with pytest.raises(UserError, match="strict=true, and the movie has a problem: image"):
        predict_typed(classifier, given, None, classifier.form(), strict=True)
    with pytest.raises(UserError, match=r"the movie cannot be predicted: image .* is not used"):
        predict_typed(classifier, {"image": str(tmp_path / "poster.jpg")}, None, classifier.form(), strict=False)


@contextmanager
def small_chunks(monkeypatch: pytest.MonkeyPatch):
    """Predict in chunks of 3 rows while inside, and count the rows that are prepared."""
    prepared: list[int] = []
    original = Inputs.prepare

    def prepare(inputs, rows, *given):
        prepared.append(len(rows))
        return original(inputs, rows, *given)

    with monkeypatch.context() as patch:
        patch.setattr(module, "CHUNK", 3)
        patch.setattr(Inputs, "prepare", prepare)
        yield prepared


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_killed_prediction_continues_with_the_same_bytes(suffix, frozen, table, tmp_path, monkeypatch):
    classifier = gmu_lightning.load(frozen.folder)
    with small_chunks(monkeypatch) as prepared:
        predicted(classifier, table, tmp_path / f"whole.{suffix}")
        assert prepared == [3, 3, 3, 1]
        prepared.clear()
        original, output = Classifier._results, tmp_path / f"out.{suffix}"

        def die(self, part, *rest):
            if part.rows[0].id == pd.read_csv(table, dtype=str)["id"][6]:
                raise KeyboardInterrupt
            return original(self, part, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(Classifier, "_results", die)
            with pytest.raises(KeyboardInterrupt):
                predicted(classifier, table, output)
        assert not output.exists()
        assert len(list((tmp_path / f".out.{suffix}.parts").glob("*.parquet"))) == 2
        prepared.clear()
        predicted(classifier, table, output)
        assert prepared == [3, 1]
    assert output.read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
    assert not (tmp_path / f".out.{suffix}.parts").exists()


def test_only_chunks_that_changed_are_predicted_again(frozen, second, table, tmp_path, monkeypatch):
    classifier = gmu_lightning.load(frozen.folder)
    original, output = classifier.form(), tmp_path / "out.csv"
    with small_chunks(monkeypatch) as prepared, monkeypatch.context() as patch:
        patch.setattr("gmu_lightning.prediction.output.shutil.rmtree", lambda *_, **__: None)  # keep the parts

        def again(classifier: Classifier, form=original) -> list[int]:
            prepared.clear()
            predict_file(classifier, str(table), output, {}, form, strict=False)
            return list(prepared)

        assert again(classifier) == [3, 3, 3, 1]
        assert again(classifier) == []
        changed(table, 4, plot="Another plot.")
        assert again(classifier) == [3]
        Image.new("RGB", (50, 70), "red").save(table.parent / pd.read_csv(table)["poster"][9])
        assert again(classifier) == [1]
        assert again(classifier, classifier.form(0.2)) == [3, 3, 3, 1]
        assert again(gmu_lightning.load(second.folder)) == [3, 3, 3, 1]


def test_two_predictions_do_not_write_one_output(frozen, table, tmp_path):
    classifier = gmu_lightning.load(frozen.folder)
    output = tmp_path / "out.csv"
    with Parts(output, []).held(), pytest.raises(UserError, match="is being written by another prediction"):
        predicted(classifier, table, output)
    predicted(classifier, table, output)
    with pytest.raises(UserError, match="is the input: give another file"):
        predicted(classifier, output, output)


def test_several_runs_give_the_mean_and_its_spread(frozen, second, movies):
    one, two = (gmu_lightning.load(run.folder).predict(movies) for run in (frozen, second))
    mean = gmu_lightning.load([frozen.folder, second.folder]).predict(movies)
    for name in [name for name in one if name.startswith(("prob/", "logit/", "contribution/"))]:
        assert mean[name].to_numpy() == pytest.approx((one[name] + two[name]) / 2, abs=1e-9)
        if name.startswith("prob/"):
            sd = mean[name.replace("prob/", "prob_sd/")]
            assert sd.to_numpy() == pytest.approx(np.std([one[name], two[name]], axis=0, ddof=1), abs=1e-9)
    assert mean["prob_sd/" + frozen.predictions("test").genres[0]].max() > 0


def test_runs_with_equal_encoders_encode_once(frozen, second, movies, monkeypatch):
    counts = {"stored": 0, "encoded": 0}

    def count(name: str) -> None:
        original = getattr(inputs, name)
        monkeypatch.setattr(inputs, name, lambda *given: (counts.update({name: counts[name] + 1}), original(*given))[1])

    count("stored")
    count("encoded")
    gmu_lightning.load([frozen.folder, second.folder]).predict(movies)
    assert counts == {"stored": 2 * len(movies), "encoded": 2}


def test_runs_that_have_no_mean_are_refused(frozen, of_arrays, train, raw):
    plots = train("modalities=text", "fusion=none", f"data.root={raw}")
    with pytest.raises(UserError, match=r"have other modalities \(image\), so they have no mean"):
        gmu_lightning.load([frozen.folder, plots.folder])
    with pytest.raises(UserError, match="have other genres"):
        gmu_lightning.load([frozen.folder, of_arrays.folder])
    with pytest.raises(UserError, match="no run is given"):
        gmu_lightning.load([])


def test_thresholds_of_val_decide(frozen, second, movies):
    val = frozen.predictions("val")
    classifier = gmu_lightning.load(frozen.folder)
    test = frozen.predictions("test")
    for rule, tune in (("val", tune_threshold), ("val_per_genre", tune_per_genre)):
        yes = test.probabilities >= np.asarray(tune(val.labels, val.probabilities))
        expected = [[genre for genre, one in zip(test.genres, row, strict=True) if one] for row in yes]
        assert classifier.predict(movies, threshold=rule)["genres"].tolist() == expected
    both = [run.predictions("val") for run in (frozen, second)]
    tuned = tune_threshold(val.labels, np.mean([one.probabilities for one in both], axis=0))
    assert gmu_lightning.load([frozen.folder, second.folder]).form("val").threshold == pytest.approx(tuned)


@pytest.mark.parametrize(("threshold", "problem"), [("best", "is no rule: give a number"), (1.5, "is no probability")])
def test_an_impossible_threshold_is_refused(frozen, threshold, problem):
    with pytest.raises(UserError, match=f"threshold={threshold} {problem}"):
        gmu_lightning.load(frozen.folder).form(threshold)


def test_training_data_are_not_needed(train, tmp_path, movies):
    gone = generate(tmp_path / "gone", movies=60, seed=0)
    run = train(f"data.root={gone}", f"store.dir={tmp_path / 'own'}")
    shutil.rmtree(gone)
    shutil.rmtree(tmp_path / "own", ignore_errors=True)
    found = gmu_lightning.load(run.folder).predict(movies)
    assert logits(found, run) == pytest.approx(run.predictions("test").logits, abs=1e-5)
    assert not (tmp_path / "own").exists()


def test_a_run_without_a_checkpoint_is_refused_and_an_unfinished_one_warned_of(frozen, movies, tmp_path, capsys):
    cut = Run(shutil.copytree(frozen.folder, tmp_path / "cut"))
    cut.end("failed", "interrupted")
    gmu_lightning.load(cut.folder)
    assert "did not finish: its best checkpoint so far predicts" in capsys.readouterr().err
    (cut / "checkpoints/best.ckpt").unlink()
    with pytest.raises(UserError, match=r"best\.ckpt does not exist: give the folder of a run that finished"):
        gmu_lightning.load(cut.folder)
    with pytest.raises(UserError, match="is no run's folder"):
        gmu_lightning.load(tmp_path)


def test_a_strangers_run_executes_nothing(frozen, tmp_path):
    theirs = Run(shutil.copytree(frozen.folder, tmp_path / "theirs"))
    config = theirs.config
    config["fusion"].update(_target_="os.mkdir", path=str(tmp_path / "made"))
    (theirs / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"names the class os\.mkdir"):
        gmu_lightning.load(theirs.folder)
    assert not (tmp_path / "made").exists()


def state_of_process() -> dict[str, Any]:
    from transformers.utils import logging as of_transformers

    return {
        "hydra": GlobalHydra.instance().is_initialized(),
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "arguments": list(sys.argv),
        "path": list(sys.path),
        "threads": torch.get_num_threads(),
        "random": torch.random.get_rng_state().tolist(),
        "torch": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_autocast_enabled("cpu")),
        "logging": (logging.root.manager.disable, logging.getLogger().level, logging.getLogger("pytorch_lightning").level),
        "transformers": (of_transformers.get_verbosity(), of_transformers.is_progress_bar_enabled()),
        "pillow": (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK),
        "csv": csv.field_size_limit(),
        "warnings": list(warnings.filters),
        "garbage": gc.isenabled(),
        "streams": (sys.stdout, sys.stderr),
    }


def test_python_leaves_no_global_state(frozen, movies, table, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    monkeypatch.setattr("torch.get_num_threads", torch.get_num_threads)
    gmu_lightning.load(frozen.folder).predict(movies[:1])  # imports what is imported late
    torch.set_num_threads(2)
    try:
        before = state_of_process()
        classifier = gmu_lightning.load(frozen.folder)
        classifier.predict(movies)
        classifier.predict(table)
        with pytest.raises(UserError):
            classifier.predict([{"nothing": 1}])
        assert state_of_process() == before
    finally:
        torch.set_num_threads(1)


def test_the_package_is_imported_without_torch():
    code = "import sys, gmu_lightning; print({'torch', 'pandas', 'hydra'} & {*sys.modules}, gmu_lightning.load.__name__)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(None), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "set() load\n"), done.stderr


def test_predictions_load_each_network_once(frozen, movies, monkeypatch):
    loaded = []
    original = Encoder.build
    monkeypatch.setattr(Encoder, "build", lambda encoder: (loaded.append(encoder.modality), original(encoder)))
    classifier = gmu_lightning.load(frozen.folder)
    classifier.predict(movies)
    classifier.predict(movies)
    assert sorted(loaded) == ["image", "text"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "no movie is given: type movie.text="),
        (("movie.text=a", "input=x.csv"), "both movie.* and input= are given"),
        (("input=x.csv",), "input=x.csv needs a file for its predictions: add output=predictions.csv"),
        (("input=x.csv", "output=x.txt"), "output=x.txt names no format"),
        (("movie.text=a", "strict=perhaps"), "strict=perhaps"),
    ],
)
def test_a_wrong_request_ends_in_one_sentence(words, sentence, frozen, tmp_path):
    done = typed("predict", f"run={frozen.folder}", *words, folder=tmp_path, store=None)
    assert done.returncode == 1
    assert sentence in last_line(done.stderr)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_missing_input_and_a_wrong_column_end_in_one_sentence(frozen, table, tmp_path):
    classifier = gmu_lightning.load(frozen.folder)
    with pytest.raises(UserError, match="does not exist"):
        predicted(classifier, tmp_path / "none.csv", tmp_path / "out.csv")
    with pytest.raises(UserError, match=r"data\.columns\.text=plott: .* has no such column: did you mean plot"):
        classifier.predict(table, columns={"text": "plott"})
    with pytest.raises(UserError, match=r"data\.columns\.labels is no column that predict reads"):
        classifier.predict(table, columns={"labels": "plot"})
    assert not (tmp_path / ".out.csv.parts").exists()


def test_a_column_may_be_named(frozen, table):
    classifier = gmu_lightning.load(frozen.folder)
    whole = classifier.predict(table)
    frame = pd.read_csv(table).rename(columns={"plot": "Words of it", "poster": "see"})
    frame.to_csv(table, index=False)
    assert numbers(classifier.predict(table, columns={"text": "Words of it", "image": "see"})).tolist() == numbers(whole).tolist()


def test_a_table_without_a_modality_is_announced(frozen, movies, capsys):
    found = gmu_lightning.load(frozen.folder).predict([{"plot": row["plot"]} for row in movies])
    assert "no column for image, so every row is predicted without it" in capsys.readouterr().err
    assert not found["present/image"].any()
    assert found["problem"].isna().all()
    assert found["id"].tolist() == [str(n + 1) for n in range(len(movies))]
