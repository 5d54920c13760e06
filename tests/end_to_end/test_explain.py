"""Reasons are differences of the model's own logits, on the command line, in files and in Python."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

import gmu_lightning
from gmu_lightning.config.options import PredictConfig
from gmu_lightning.explanation import files
from gmu_lightning.explanation.explain import Why
from gmu_lightning.explanation.words import read
from gmu_lightning.movie import UserError
from gmu_lightning.prediction import classifier as module
from gmu_lightning.prediction.classifier import Classifier
from gmu_lightning.prediction.command import predict_file, predict_typed
from gmu_lightning.run import Run

from .shell import typed

HOSTILE = '<script>alert("x")</script> A "dog" 😀 & co.\nThe war begins.\n\nEnd'


@pytest.fixture(scope="module")
def movies(raw) -> list[dict[str, str]]:
    """Return the first test movies of the generated ones, as rows of a table."""
    ids = json.loads((raw / "split.json").read_text())["test"][:4]
    records = {movie: json.loads((raw / "dataset" / f"{movie}.json").read_text()) for movie in ids}
    return [{"id": movie, "plot": records[movie]["plot"][0], "poster": str(raw / "dataset" / f"{movie}.jpeg")} for movie in ids]


@pytest.fixture(scope="module")
def frozen(train, pretrained, raw) -> Run:
    """A run on features of frozen encoders."""
    return train(*pretrained, f"data.root={raw}")


@pytest.fixture(scope="module")
def second(train, pretrained, raw) -> Run:
    return train(*pretrained, f"data.root={raw}", "seed=2", "fusion=mean")


@pytest.fixture(scope="module")
def of_arrays(train) -> Run:
    """A run on plots, arrays of frames, and a table of metadata."""
    return train("data.modalities=text+video+metadata", "modalities=text+video+metadata", "fusion=gmu_hier")


def logits_of(classifier: Classifier, movies: list[dict[str, Any]]) -> np.ndarray:
    """Return the logits (N, C) that `predict` gives movies."""
    return classifier.predict(movies)[[f"logit/{genre}" for genre in classifier.genres]].to_numpy()


def each(explanation: Any, key: str) -> dict[str, np.ndarray]:
    """Return {modality: numbers of all genres} of a key of the record."""
    genres = explanation.record["genres"].values()
    return {m: np.array([genre[key][m] for genre in genres]) for m in next(iter(genres))[key]}


def number(explanation: Any, key: str) -> np.ndarray:
    return np.array([genre[key] for genre in explanation.record["genres"].values()])


def effects(explanation: Any, modality: str) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Return (where, effects on all genres) of the pieces of a modality."""
    genres = list(explanation.record["genres"].values())
    return [
        (piece["where"], np.array([genre["pieces"][n]["effect"] for genre in genres]))
        for n, piece in enumerate(genres[0]["pieces"])
        if piece["modality"] == modality
    ]


FLOAT = ("encoder/text=minilm", "trainer.precision=32-true", "scheduler=constant")
OTHERS = {
    "late": ("fusion=late",),
    "concat": ("fusion=concat",),
    "mean": ("fusion=mean",),
    "tuned text": (*FLOAT, "encoder.text.freeze=none"),
    "mmbt": (*FLOAT, "fusion=mmbt", "encoder.text.freeze=all"),
    "bottleneck": (*FLOAT, "fusion=bottleneck"),
    "sum": ("fusion=sum", "encoder.text.normalise=none"),
}
MORE = ("mmbt", "bottleneck")


@pytest.fixture(scope="module")
def run_of(train, pretrained, raw) -> Callable[[str], Run]:
    """(name in `OTHERS`) -> a run that is trained once."""

    @cache
    def make(how: str) -> Run:
        networks = pretrained if "encoder/text=minilm" in OTHERS[how] else ()
        return train(*networks, *OTHERS[how], f"data.root={raw}")

    return make


@pytest.mark.parametrize("how", [pytest.param(how, marks=[pytest.mark.heavy] if how in MORE else []) for how in OTHERS])
def test_numbers_are_those_of_every_kind_of_model(how, run_of, movies):
    classifier, movie = gmu_lightning.load(run_of(how).folder), movies[0]
    found = classifier.explain(movie, "pieces")
    logit, bias, shapley = number(found, "logit"), number(found, "bias"), each(found, "shapley")
    alone = [{"plot": movie["plot"]}, {"poster": movie["poster"]}]
    whole, text, image = logits_of(classifier, [movie, *alone])
    assert logit == pytest.approx(whole, abs=1e-5)
    assert bias + shapley["text"] + shapley["image"] == pytest.approx(logit, abs=1e-5)
    without = each(found, "without")
    assert without["text"] == pytest.approx(image, abs=1e-5)
    assert without["image"] == pytest.approx(text, abs=1e-5)
    exact = found.record["genres"][classifier.genres[0]]["contributions"] is not None
    assert exact is (how not in ("late", "mmbt"))
    if exact:
        contributions = each(found, "contributions")
        assert bias + contributions["text"] + contributions["image"] == pytest.approx(logit, abs=1e-5)
        equal = [np.allclose(contributions[m], shapley[m], atol=1e-5) for m in ("text", "image")]
        assert equal == [how in ("sum", "concat")] * 2  # elsewhere a modality weighs more where the other is absent
    check_pieces(classifier, movie, found)


def check_pieces(classifier: Classifier, movie: dict[str, str], found: Any, folder: Path | None = None) -> None:
    """Check that the effects of sentences, and of some cells, are those of the edited movie."""
    sentences, cells = effects(found, "text")[::3], effects(found, "image")[8::13]
    assert (len(effects(found, "text")), len(effects(found, "image"))) == (10, 49)
    edited = [{**movie, "plot": movie["plot"][: w["start"]] + movie["plot"][w["end"] :]} for w, _ in sentences]
    if folder is not None:
        edited += [{**movie, "poster": covered(movie["poster"], where, folder)} for where, _ in cells]
    whole, *less = logits_of(classifier, [movie, *edited])
    for (_, effect), rest in zip([*sentences, *cells], less, strict=False):
        assert effect == pytest.approx(whole - rest, abs=1e-5)


def covered(poster: str, where: dict[str, int], folder: Path) -> str:
    """Return the path of a poster with one cell in its mean colour."""
    with Image.open(poster) as image:
        picture = image.convert("RGB")
    width, height = picture.size
    left, top = round((where["column"] - 1) * width / 7), round((where["row"] - 1) * height / 7)
    right, bottom = round(where["column"] * width / 7), round(where["row"] * height / 7)
    colour = tuple(np.asarray(picture).reshape(-1, 3).mean(axis=0).round().astype(int).tolist())
    ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill=colour)
    path = folder / f"{where['row']}-{where['column']}.png"
    picture.save(path)
    return str(path)


def test_pieces_have_the_effect_of_the_edited_movie(frozen, second, movies, tmp_path):
    classifier = gmu_lightning.load([frozen.folder, second.folder])
    found = classifier.explain(movies[1], "pieces")
    check_pieces(classifier, movies[1], found, tmp_path)
    assert any(abs(effect).max() > 1e-4 for _, effect in effects(found, "image"))


def test_several_runs_give_the_mean(frozen, second, movies):
    one, two, both = (
        gmu_lightning.load(runs).explain(movies[0], "words")
        for runs in (frozen.folder, second.folder, [frozen.folder, second.folder])
    )
    for key in ("without", "shapley"):
        for m, numbers in each(both, key).items():
            assert numbers == pytest.approx((each(one, key)[m] + each(two, key)[m]) / 2, abs=1e-6)
    genre = both.reasons.shown[0]
    if all(genre in found.reasons.shown for found in (one, two)):
        words = [found.reasons.words.effects[genre] for found in (one, two, both)]
        assert words[2] == pytest.approx((words[0] + words[1]) / 2, abs=1e-6)


def test_frames_and_columns_are_left_out(of_arrays, tmp_path):
    classifier = gmu_lightning.load(of_arrays.folder)
    frames = np.random.default_rng(0).standard_normal((6, 32)).astype(np.float32)
    movie = {"plot": "A boy.", "video": frames, "screens": 3, "country": "Italy", "keywords": ["heist", "rain"]}
    found = classifier.explain(movie, "pieces")
    video, table = effects(found, "video"), effects(found, "metadata")
    assert [where for where, _ in video] == [{"from_step": n, "to_step": n + 1} for n in range(6)]
    assert [where["column"] for where, _ in table] == ["screens", "country", "keywords"]
    edited = [{**movie, "video": np.delete(frames, n, axis=0)} for n in range(6)]
    edited += [{**movie, where["column"]: None} for where, _ in table]
    whole, *less = logits_of(classifier, [movie, *edited])
    for (_, effect), rest in zip([*video, *table], less, strict=True):
        assert effect == pytest.approx(whole - rest, abs=1e-5)
    shapley = each(found, "shapley")
    assert set(shapley) == {"text", "video", "metadata"}
    assert sum(shapley.values()) == pytest.approx(whole - number(found, "bias"), abs=1e-5)


def test_a_movie_with_one_piece_falls_back_to_the_bias(frozen):
    found = gmu_lightning.load(frozen.folder).explain({"plot": "A boy runs"}, "pieces")
    ((where, effect),) = effects(found, "text")
    assert where == {"start": 0, "end": 10}
    assert effect == pytest.approx(number(found, "logit") - number(found, "bias"), abs=1e-6)
    assert each(found, "without")["text"] == pytest.approx(number(found, "bias"), abs=1e-6)
    assert each(found, "shapley").keys() == {"text"}


@pytest.mark.parametrize("how", ["frozen", "tuned text", pytest.param("mmbt", marks=pytest.mark.heavy)])
def test_gradients_of_words_sum_to_the_change_of_the_logit(how, frozen, run_of, movies):
    classifier = gmu_lightning.load((frozen if how == "frozen" else run_of(how)).folder)
    found = classifier.explain(movies[0], "words")
    words = found.reasons.words
    assert words.baseline.startswith("the text with [PAD] in place of every word; integrated gradients of 32 steps")
    encoder = classifier.runs[0].sources["text"].network or classifier.runs[0].model.encoders["text"]
    tokens = int((read(movies[0]["plot"], classifier.runs[0].sources["text"], encoder).owners >= 0).sum())
    whole, blank = logits_of(classifier, [movies[0], {**movies[0], "plot": "[PAD] " * tokens}])
    assert found.reasons.shown
    for genre in found.reasons.shown:
        record, c = found.record["genres"][genre], classifier.genres.index(genre)
        total = sum(word["effect"] for word in record["words"])
        assert total - record["convergence_delta"] == pytest.approx(whole[c] - blank[c], abs=1e-5)
        assert abs(record["convergence_delta"]) < 0.02 * np.abs(words.effects[genre]).sum() + 1e-6
    assert all(movies[0]["plot"][w.start : w.end] == w.word for w in words.words)
    assert max(np.abs(effects).max() for effects in words.effects.values()) > 1e-6


def test_words_of_a_bag_are_left_out_exactly(run_of, movies):
    classifier = gmu_lightning.load(run_of("concat").folder)
    plot = "A vampire — the DEMON's crypt, the crypt 😀 rises."
    found = classifier.explain({"plot": plot, "poster": movies[0]["poster"]}, "words")
    genre = found.reasons.shown[0]
    record = found.record["genres"][genre]
    assert record["convergence_delta"] is None and "recomputed by the whole model" in record["baseline"]
    assert [w["word"] for w in record["words"]] == ["A", "vampire", "the", "DEMON's", "crypt", "the", "crypt", "rises"]
    plots = [plot, *(plot[: word["start"]] + plot[word["end"] :] for word in record["words"])]
    found_logits = logits_of(classifier, [{"plot": rest, "poster": movies[0]["poster"]} for rest in plots])
    whole, *less = found_logits[:, classifier.genres.index(genre)].tolist()
    for word, rest in zip(record["words"], less, strict=True):
        assert word["effect"] == pytest.approx(whole - rest, abs=1e-5)


def test_words_of_a_linear_bag_have_exact_weights(run_of):
    classifier = gmu_lightning.load(run_of("sum").folder)
    found = classifier.explain({"plot": "A vampire haunts the crypt. The crypt"}, "words")
    genre = found.reasons.shown[0]
    record = found.record["genres"][genre]
    assert "linear in the embeddings" in record["baseline"]
    assert abs(record["convergence_delta"]) < 1e-5
    weights = {}
    for word in record["words"]:
        assert weights.setdefault(word["word"].lower(), word["effect"]) == pytest.approx(word["effect"], abs=1e-6)
    more = classifier.explain({"plot": "A vampire haunts the crypt. The crypt crypt"}, "modalities")
    assert more.record["genres"][genre]["logit"] - record["logit"] == pytest.approx(weights["crypt"], abs=1e-5)


def test_reasons_that_do_not_exist_are_refused(frozen, run_of, train, raw, movies, monkeypatch):
    classifier = gmu_lightning.load(frozen.folder)
    with pytest.raises(UserError, match="why=peices is no level of detail: did you mean pieces"):
        classifier.explain(movies[0], "peices")
    with pytest.raises(UserError, match="explain reads one movie, and 2 are given"):
        classifier.explain(movies[:2])
    with pytest.raises(UserError, match="the movie cannot be explained: it has no text and no image"):
        classifier.explain({"plot": ""})
    with pytest.raises(UserError, match="split a text into other words"):
        gmu_lightning.load([frozen.folder, run_of("concat").folder]).explain(movies[0], "words")
    posters = gmu_lightning.load(train("modalities=image", "fusion=none", f"data.root={raw}").folder)
    with pytest.raises(UserError, match="why=words reads the text, and the run reads image: choose why=pieces"):
        posters.explain(movies[0], "words")
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UserError, match=r"why=words needs captum .*pip install 'gmu_lightning\[explain\]'"):
        classifier.explain(movies[0], "words")
    with pytest.raises(UserError, match=r"why=peices .*none, modalities, pieces"):
        PredictConfig.of({"strict": False, "why": "peices"})


@pytest.fixture
def table(movies, tmp_path) -> Path:
    """A table with a hostile plot, a row without a plot, one with a damaged poster, and one without anything."""
    folder = tmp_path / "new"
    folder.mkdir()
    for row in movies:
        shutil.copy(row["poster"], folder)
    rows = [{**row, "poster": Path(row["poster"]).name} for row in movies]
    rows[1]["plot"] = HOSTILE
    rows[2]["plot"] = None
    rows += [{"id": "<b>bad", "plot": movies[0]["plot"], "poster": "bad.jpg"}, {"id": "none", "plot": "", "poster": ""}]
    (folder / "bad.jpg").write_bytes(b"no picture")
    pd.DataFrame(rows).to_csv(folder / "movies.csv", index=False)
    return folder / "movies.csv"


def test_the_command_writes_lines_and_a_page(frozen, table, movies, tmp_path):
    words = (f"run={frozen.folder}", f"input={table}", "output=out.csv", "why=pieces")
    done = typed("predict", *words, folder=tmp_path, store=None)
    assert done.returncode == 0, done.stderr
    assert "why.jsonl" in done.stdout and "why.html" in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "out.csv.why.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)["id"].tolist()
    classifier = gmu_lightning.load(frozen.folder)
    alone = classifier.explain(movies[0], "pieces").record
    first = lines[0]["genres"]
    assert first.keys() == alone["genres"].keys() == set(classifier.genres)
    assert first["Horror"].keys() == {"logit", "bias", "contributions", "without", "shapley", "pieces"}
    assert [p["where"] for p in first["Horror"]["pieces"]] == [p["where"] for p in alone["genres"]["Horror"]["pieces"]]
    for key in ("logit", "bias"):
        assert first["Horror"][key] == pytest.approx(alone["genres"]["Horror"][key], abs=1e-5)
    assert lines[2]["genres"]["Horror"]["shapley"].keys() == {"image"}
    assert "bad.jpg is not used" in lines[4]["problem"] and lines[4]["genres"]["Horror"]["shapley"].keys() == {"text"}
    assert lines[5] == {"id": "none", "genres": None, "problem": "it has no text and no image"}
    texts = [p["where"] for p in lines[1]["genres"]["Horror"]["pieces"] if p["modality"] == "text"]
    assert [HOSTILE[w["start"] : w["end"]] for w in texts] == [HOSTILE[:44], "The war begins.\n\n", "End"]
    check_page((tmp_path / "out.csv.why.html").read_text())


def check_page(page: str) -> None:
    """Check that a page escapes what rows hold, shows every row, and needs no network."""
    assert "<script" not in page and "&lt;script&gt;" in page and "&lt;b&gt;bad" in page
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)|url\((?!"data:)|@import""", page)
    assert "default-src &#39;none&#39;; script-src &#39;none&#39;; " in page.partition("<style")[0]
    assert page.count('<section id="movie-') == 6
    assert page.count("data:image/jpeg;base64,") == 4
    assert "it has no text and no image" in page and "bad.jpg is not used" in page
    assert re.search(r'<rect class="(up|down)".*?<title>row \d, column \d: [+-]\d\.\d{3}</title>', page)
    assert re.search(r'<span class="(up|down)" style="--share:[\d.]+" title="[+-]\d\.\d{3}">', page)
    assert 'role="img" aria-label="Heat on the poster of' in page


def explained_file(classifier: Classifier, table: Path, output: Path, level: Any = "pieces") -> None:
    predict_file(classifier, str(table), output, {}, classifier.form(), False, Why(level, classifier))


def test_a_killed_explanation_continues_with_the_same_bytes(frozen, table, tmp_path, monkeypatch):
    classifier = gmu_lightning.load(frozen.folder)
    monkeypatch.setattr(module, "COSTLY_CHUNK", 2)
    explained_file(classifier, table, tmp_path / "whole.csv")
    original, explained = Classifier._results, []

    def die(self, part, *rest):
        explained.append([row.id for row in part.rows])
        if len(explained) == 2:
            raise KeyboardInterrupt
        return original(self, part, *rest)

    monkeypatch.setattr(Classifier, "_results", die)
    with pytest.raises(KeyboardInterrupt):
        explained_file(classifier, table, tmp_path / "out.csv")
    assert not list(tmp_path.glob("out.csv*"))
    explained_file(classifier, table, tmp_path / "out.csv")
    assert explained[2:] == [explained[1], ["<b>bad", "none"]]
    for suffix in ("", ".why.jsonl", ".why.html"):
        assert (tmp_path / f"out.csv{suffix}").read_bytes() == (tmp_path / f"whole.csv{suffix}").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_another_level_is_computed_anew(frozen, table, tmp_path, monkeypatch):
    classifier = gmu_lightning.load(frozen.folder)
    with monkeypatch.context() as patch:
        patch.setattr("gmu_lightning.prediction.output.shutil.rmtree", lambda *_, **__: None)  # keep the parts
        explained_file(classifier, table, tmp_path / "out.csv", "modalities")
        assert '"pieces"' not in (tmp_path / "out.csv.why.jsonl").read_text()
        explained_file(classifier, table, tmp_path / "out.csv", "pieces")
        assert '"pieces"' in (tmp_path / "out.csv.why.jsonl").read_text()


def test_the_page_shows_the_first_movies_alone(frozen, table, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_CARDS", 3)
    monkeypatch.setattr(module, "CHUNK", 2)
    explained_file(gmu_lightning.load(frozen.folder), table, tmp_path / "out.csv", "modalities")
    page = (tmp_path / "out.csv.why.html").read_text()
    assert page.count('<section id="movie-') == 3 and "the first 3 of 6" in page
    assert len((tmp_path / "out.csv.why.jsonl").read_text().splitlines()) == 6


def test_one_movie_is_explained_in_sentences(frozen, movies, tmp_path, capsys):
    classifier = gmu_lightning.load(frozen.folder)
    given = {"text": movies[0]["plot"], "image": movies[0]["poster"]}
    predict_typed(classifier, given, tmp_path / "one.jsonl", classifier.form(0.01), False, Why("pieces", classifier))
    shown = capsys.readouterr().out
    found = classifier.explain(movies[0], "pieces", threshold=0.01)
    assert str(found) in shown
    genre = found.reasons.predicted[0]
    strongest = max(effects(found, "text"), key=lambda e: abs(e[1][classifier.genres.index(genre)]))
    effect = strongest[1][classifier.genres.index(genre)]
    plot = movies[0]["plot"][strongest[0]["start"] : strongest[0]["end"]].strip()
    if abs(effect) >= 0.05:
        way = "lowers" if effect > 0 else "raises"
        assert f'removing this sentence {way} {genre} by {abs(effect):.2f} logits: "{plot[:80]}' in shown
    assert re.search(rf"^{genre}: logit [+-]\d+\.\d\d, probability 0\.\d{{3}}$", shown, re.M)
    assert re.search(r"^  without image the logit would be [+-]\d+\.\d\d", shown, re.M)
    for suffix in ("", ".why.jsonl", ".why.html"):
        assert (tmp_path / f"one.jsonl{suffix}").exists()


def test_an_explanation_is_a_table_and_a_drawing_in_a_notebook(frozen, movies):
    found = gmu_lightning.load(frozen.folder).explain(movies[0], "pieces")
    table = found.table
    assert list(table) == ["genre", "kind", "modality", "where", "effect"]
    assert set(table["genre"]) == set(found.reasons.shown)
    genre = found.reasons.shown[0]
    sentences = table[(table["genre"] == genre) & (table["kind"] == "piece") & (table["modality"] == "text")]
    assert sentences["effect"].tolist() == [
        pytest.approx(effect[list(found.record["genres"]).index(genre)], abs=1e-6) for _, effect in effects(found, "text")
    ]
    drawn = found._repr_html_()
    assert drawn.startswith("<iframe") and "sandbox" in drawn and drawn.count("<") == 2
    assert "&lt;section id=&quot;movie-1&quot;&gt;" in drawn


@pytest.mark.heavy
def test_planted_pieces_come_first(train, tmp_path):
    """Check on generated movies that sentence and disc of a genre speak for it more than any other piece."""
    from benchmarks.explanations import planted_shares

    run = train(
        "data.movies=1200",
        "trainer.max_epochs=18",
        "data.batch_size=32",
        "encoder.image.dim=32",
        "fusion.dim=32",
        "optimizer.lr=4e-3",
        "scheduler=onecycle",
    )
    shares = planted_shares(run, 30)
    assert np.mean(shares["text"]) >= 0.9
    assert np.mean(shares["image"]) >= 0.8
