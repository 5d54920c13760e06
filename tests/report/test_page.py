"""The page says what the files say, escapes what strangers wrote, and fetches nothing."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, f1_score
from torchmetrics.functional.classification import binary_calibration_error

from gmu_lightning.files import write_json
from gmu_lightning.metrics import tune_per_genre
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.gate_evidence import Truth
from gmu_lightning.report.page.gates import DRAWN
from gmu_lightning.report.page.movies import SAMPLE, chosen_movies
from gmu_lightning.report.page.shown import Shown, ShownMovie, thumbnail
from gmu_lightning.report.page.write import page, write_page
from gmu_lightning.run import Run, runs_under

from .made import GENRES, Sweep, put, study
from .reading import Tables

PIXEL = "data:image/jpeg;base64,/9j/4AAQ"


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    made = Sweep(tmp_path / "sweep")
    made.three_seeds("gmu_original", 2.0)
    made.three_seeds("concat", 0.8)
    made.three_seeds("none", 0.6, modalities="text")
    return made


@pytest.fixture
def runs(sweep) -> list[Run]:
    return runs_under(sweep.folder)


def of(runs: list[Run], fusion: str) -> list:
    return [run.predictions("test") for run in runs if run.config["choices"]["fusion"] == fusion]


def test_every_number_of_the_leaderboard_is_scikit_learn_s(runs):
    shown = list(Tables(page(compare(runs), runs, Shown())).rows("micro F1"))
    measured = [row for row in shown if "published" not in row["fusion"][0]]
    assert [row["fusion"][0] for row in measured] == ["gmu_original", "concat", "none"]
    for row in measured:
        test = of(runs, row["fusion"][0])
        for over in ("micro", "macro", "weighted", "samples"):
            expected = np.mean([f1_score(p.labels, p.probabilities >= 0.5, average=over, zero_division=0) for p in test])
            assert float(row[f"{over} F1"][1]) == pytest.approx(expected, abs=1e-9)
            assert row[f"{over} F1"][0] == f"{expected:.3f}"
        for over in ("micro", "macro"):
            expected = np.mean([average_precision_score(p.labels, p.probabilities, average=over) for p in test])
            assert float(row[f"{over} AP"][1]) == pytest.approx(expected, abs=1e-9)
            for rule, words in (("val", "a threshold tuned on val"), ("val_per_genre", "thresholds tuned on val per genre")):
                tuned = [run.metrics[f"test/f1_{over}@{rule}"] for run in runs if of([run], row["fusion"][0])]
                assert float(row[f"{over} F1 at {words}"][1]) == pytest.approx(np.mean(tuned), abs=1e-9)
        assert row["seeds"] == ("3", "3")


def test_parameters_and_seconds_are_each_setting_s_own(runs):
    totals = {"gmu_original": 3_000, "concat": 2_000, "none": 1_000}
    for n, run in enumerate(runs):
        total = totals[run.config["choices"]["fusion"]]
        own = {"parameters/total": total, "parameters/trainable": total - 7, "parameters/fusion": 70 + n, "seconds/total": 2.0**n}
        write_json(run / "metrics.json", run.metrics | own)
    shown = {row["fusion"][0]: row for row in Tables(page(compare(runs), runs, Shown())).rows("parameters")}
    for fusion, total in totals.items():
        assert shown[fusion]["parameters"] == (str(total), str(total))
        seconds = [run.metrics["seconds/total"] for run in runs if run.config["choices"]["fusion"] == fusion]
        assert float(shown[fusion]["seconds"][1]) == pytest.approx(np.mean(seconds))


def test_every_genre_s_number_is_scikit_learn_s(runs):
    found = Tables(page(compare(runs), runs, Shown()))
    heads = [f"{g} ({int(c)})" for g, c in zip(GENRES, of(runs, "none")[0].labels.sum(axis=0), strict=True)]
    tables = [t for t in found.tables if t[0][0][0] == "setting" and {text for text, _ in t[0][1:]} == set(heads)]
    captions = [words for words in found.words if words.endswith("in brackets the test movies that have the genre")]
    assert [words.split(", a mean")[0] for words in captions] == [
        "F1 of each genre at .5",
        "Average precision of each genre",
        "F1 of each genre at a threshold of its own, tuned on val",
        "The threshold that val chose for each genre",
    ]
    for table, expected_of in zip(tables, (f1_at_half, ap, f1_tuned, threshold), strict=True):
        for row in table[1:]:
            setting = [run for run in runs if run.config["choices"]["fusion"] == row[0][0].split()[0]]
            for (head, _), (text, value) in zip(table[0][1:], row[1:], strict=True):
                expected = np.mean([expected_of(run, heads.index(head)) for run in setting])
                assert float(value) == pytest.approx(expected, abs=1e-9)
                assert text == f"{expected:.2f}"


def f1_at_half(run: Run, c: int) -> float:
    p = run.predictions("test")
    return f1_score(p.labels[:, c], p.probabilities[:, c] >= 0.5)


def ap(run: Run, c: int) -> float:
    p = run.predictions("test")
    return average_precision_score(p.labels[:, c], p.probabilities[:, c])


def threshold(run: Run, c: int) -> float:
    """The first of all that have the best F1 on val."""
    p = run.predictions("val")
    return tune_per_genre(p.labels, p.probabilities)[c]


def f1_tuned(run: Run, c: int) -> float:
    p = run.predictions("test")
    return f1_score(p.labels[:, c], p.probabilities[:, c] >= threshold(run, c))


def test_shares_of_genres_and_what_they_are_taken_for_are_counted(runs):
    text = page(compare(runs), runs, Shown())
    tables = Tables(text).tables
    labels = {split: runs[0].predictions(split).labels for split in ("val", "test")}
    (shares,) = [table for table in tables if table[0][0][0] == "split"]
    assert [[text for text, _ in row] for row in shares[1:]] == [
        [f"{split} ({len(has)})", *(f"{share:.2f}" for share in has.mean(axis=0))] for split, has in labels.items()
    ]
    predicted, true = [table for table in tables if table[0][0][0] == "movies that have"]
    best = of(runs, "gmu_original")
    for i, genre in enumerate(GENRES):
        has = labels["test"][:, i]
        said = np.mean([(p.probabilities[has] >= 0.5).mean(axis=0) for p in best], axis=0)
        for table, expected in ((predicted, said), (true, labels["test"][has].mean(axis=0))):
            name, *values = table[1 + i]
            assert name[0] == genre
            assert [float(value) for _, value in values] == pytest.approx(expected.tolist())
    row, column = re.search(r"test movies that are (\w+), \d+% are (\w+) too", text).groups()
    counts = labels["test"].sum(axis=0)
    assert counts[GENRES.index(row)] != counts[GENRES.index(column)]
    assert f"Of the {counts[GENRES.index(row)]} test movies that are {row}" in text


def test_where_no_genre_is_taken_for_another_it_is_said_so(sweep):
    runs = sweep.three_seeds("late", 9.0)
    for n, run in enumerate(runs):
        said = run.predictions("test")
        said.logits = np.where(said.labels, 5.0 + n, -5.0)
        put(run, said)
    assert "No genre is predicted more often beside another than it truly stands there." in page(compare(runs), runs, Shown())


def test_intervals_and_sentences_are_the_comparison_s(runs):
    found = compare(runs)
    text = page(found, runs, Shown())
    rows = {row["fusion"][0]: row for row in Tables(text).rows("ties")}
    for one in found.settings:
        _, low, high = one.scored("f1_micro").interval
        assert rows[one.setting.values["fusion"]]["95 % interval"][0] == f"[{low:.3f}, {high:.3f}]"
    words = " ".join(Tables(text).words)
    for pair in found.pairs:
        assert pair.sentence in words


def test_every_pair_s_numbers_are_the_comparison_s(runs):
    found = compare(runs)
    rows = list(Tables(page(found, runs, Shown())).rows("permutation p"))
    assert len(rows) == len(found.pairs) == 3
    for row, pair in zip(rows, found.pairs, strict=True):
        assert (row["better"][0], row["than"][0]) == (pair.a.name, pair.b.name)
        for name, value in (
            ("difference", pair.difference.mean),
            ("p", pair.difference.p),
            ("Holm's p", pair.p_holm),
            ("effect (g)", pair.difference.effect),
            ("micro F1 at a threshold tuned on val", pair.beside["f1_micro@val"].mean),
            ("micro AP", pair.beside["ap_micro"].mean),
            ("its p", pair.tests.p_bootstrap),
            ("permutation p", pair.tests.p_permutation),
        ):
            assert float(row[name][1]) == pytest.approx(value)
        assert row["bootstrap"][0] == f"[{pair.tests.low:.3f}, {pair.tests.high:.3f}]"


def test_nothing_is_fetched_and_everything_has_words(runs):
    found = compare(runs)
    movies = {movie: ShownMovie("A plot.", PIXEL) for movie in chosen_movies(found)}
    text = page(found, runs, Shown(movies))
    for tag, attributes in Tables(text).tags:
        assert tag not in ("link", "iframe", "object", "embed")
        for name in ("src", "href", "srcset", "action"):
            assert not re.match(r"(https?:)?//", attributes.get(name) or "")
        if tag == "script":
            assert "src" not in attributes
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
    assert "@import" not in text
    assert "url(" not in text


def test_what_strangers_wrote_is_text(sweep):
    evil = '</script><script>alert("x")</script>'
    sweep.three_seeds("mean", typed=[f"note={evil}"], note=evil)
    sweep.run("concat", 9).warn(f"odd: {evil}")
    runs = runs_under(sweep.folder)
    found = compare(runs)
    shown = Shown({movie: ShownMovie(evil + " & more", None) for movie in chosen_movies(found)})
    text = page(found, runs, shown)
    assert evil not in text
    assert len(re.findall("<script>", text)) == 1
    assert evil + " & more" in "".join(Tables(text).words)


def test_a_movie_s_card_says_what_was_predicted_and_what_each_modality_added(runs):
    found, test = compare(runs), of(runs, "gmu_original")
    row = {movie: n for n, movie in enumerate(test[0].ids)}
    movie = next(movie for movie in chosen_movies(found) if test[0].labels[row[movie]].sum() > 1)
    text = page(found, runs, Shown({movie: ShownMovie("A plot.", None)}))
    probabilities = np.mean([p.probabilities[row[movie]] for p in test], axis=0)
    parts = np.mean([p.contributions[row[movie]] for p in test], axis=0)
    cells = [line[1][0] for table in Tables(text).tables if len(table[0]) == 2 for line in table if line[0][0].startswith("gmu_")]
    has = test[0].labels[row[movie]]
    expected = [
        f"{genre} {probabilities[c]:.2f} (text {parts[0, c]:+.1f}, image {parts[1, c]:+.1f})"
        for c, genre in enumerate(GENRES)
        if has[c] or probabilities[c] >= 0.5
    ]
    assert expected
    assert cells[0] == ", ".join(expected)
    right = [genre for c, genre in enumerate(GENRES) if has[c] and probabilities[c] >= 0.5]
    assert all(f'<span class="right" title="predicted, and true">{genre} ' in text for genre in right)


def test_drawn_intervals_are_the_numbers(runs):
    found = compare(runs)
    text = page(found, runs, Shown())
    for one in found.settings:
        mean, low, high = one.scored("f1_micro").interval
        letters = found.letters[one.name]
        assert f"<title>{one.name}  {letters}: {mean:.4f} [{low:.4f}, {high:.4f}]</title>" in text


def test_published_rows_are_marked_and_in_no_test(runs):
    found = compare(runs)
    rows = [row for row in Tables(page(found, runs, Shown())).rows("micro F1") if "published" in row["fusion"][0]]
    gmu = next(row for row in rows if row["fusion"][0].startswith("GMU"))
    assert float(gmu["micro F1"][1]) == 0.630
    assert "arXiv 1702.01992" in gmu["warnings, sources"][0]
    assert all("GMU" not in (pair.a.name, pair.b.name) for pair in found.pairs)


def test_a_page_of_sixty_settings_is_below_five_megabytes_and_says_what_it_leaves_out(tmp_path):
    sweep = Sweep(tmp_path, genres=[f"Genre {n}" for n in range(23)], movies={"val": 60, "test": 100})
    runs = [sweep.run(f"gmu_{n}", 1, 1 + 0.02 * n) for n in range(60)]
    found = compare(runs)
    shown = Shown({movie: ShownMovie("word " * 240, "data:image/jpeg;base64," + "x" * 8000) for movie in chosen_movies(found)})
    text = page(found, runs, shown)
    assert 1e6 < len(text.encode()) < 5e6
    words = " ".join(" ".join(Tables(text).words).split())
    assert "12 of 100 test movies, drawn with seed 0" in words
    assert text.count("share of open features of gmu_") == DRAWN
    undrawn = ", ".join(one.name for one in found.settings[DRAWN:])
    assert f"Not drawn, for want of room, are the gates of {undrawn}: each run's gates/by_genre.parquet" in words


def test_movies_are_a_stated_sample_with_what_every_setting_said(runs):
    found = compare(runs)
    shown = Shown({movie: ShownMovie(f"Plot of {movie}.", PIXEL) for movie in chosen_movies(found)})
    text = page(found, runs, shown)
    words = " ".join(" ".join(Tables(text).words).split())
    assert f"{SAMPLE} of 80 test movies, drawn with seed 0" in words
    assert "Most driven by text, for gmu_original" in words
    movie = found.settings[0].test[0].ids[0]
    assert text.count("Predictions of 3 settings") >= SAMPLE
    assert (f"Plot of {movie}." in words) == (movie in chosen_movies(found))


def test_what_failed_was_skipped_or_was_wrong_with_the_data_is_told(sweep):
    sweep.run("sum", 1).end("failed", "the disk is full")
    sweep.run("max", 1).end("skipped", "fusion=max takes at least 2 modalities")
    runs = runs_under(sweep.folder)
    words = " ".join(Tables(page(compare(runs), runs, Shown())).words)
    assert "the disk is full" in words
    assert "fusion=max takes at least 2 modalities (1 job)" in words


def test_scores_of_nothing_are_drawn(sweep, tmp_path):
    alone = Sweep(tmp_path / "alone")
    for n, run in enumerate(alone.three_seeds("mean")):
        for split in ("val", "test"):
            said = run.predictions(split)
            said.logits = np.full_like(said.logits, -3.0 - n)
            put(run, said)
    runs = runs_under(alone.folder)
    assert "0.000" in page(compare(runs), runs, Shown())


def test_a_search_s_budget_spread_and_winners_are_told(sweep, runs):
    trials = [{"params": {"lr": 0.1 * n}, "score": score} for n, score in enumerate((0.2, 0.6, 0.4, None))]
    settings = [
        {"overrides": ["fusion=concat", "seed"], "why_not": None, "trials": trials, "best": {"lr": 0.1}},
        {"overrides": ["fusion=none", "seed"], "why_not": "it takes one modality", "trials": [], "best": None},
    ]
    space = {"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "dim": {"choices": [8, 16]}}
    found = {"trials": 4, "space": space, "seed": 0, "monitor": "val/ap_micro", "settings": settings}
    (sweep.folder / "search").mkdir()
    (sweep.folder / "search/search.json").write_text(json.dumps(found))
    text = page(compare(runs), runs, Shown())
    assert "4 trials of each setting, judged by val/ap_micro with seed 0" in text
    assert "Space: lr: 0.0001 to 0.01, logarithmic, dim: 8 or 16." in text
    concat, none = Tables(text).rows("best with")
    assert [concat[name][0] for name in ("setting", "trials with a score", "lowest on val", "median", "best", "best with")] == [
        *("fusion=concat", "3", "0.2000", "0.4000", "0.6000", "lr=0.1"),
    ]
    assert none["best with"][0] == "it takes one modality"


def test_what_a_search_chose_is_in_the_leaderboard_and_not_in_the_names(tmp_path):
    tuned, plain = Sweep(tmp_path / "tuned"), Sweep(tmp_path / "plain")
    tuned.three_seeds("concat", typed=["lr=0.3"], lr=0.3)
    plain.three_seeds("mean", typed=["lr=0.1"], lr=0.1)
    settings = [{"overrides": ["fusion=concat"], "why_not": None, "trials": [], "best": {"lr": 0.3}}]
    found = {"trials": 4, "space": {"lr": {"low": 0.1, "high": 0.5}}, "seed": 0, "monitor": "val/ap_micro", "settings": settings}
    write_json(tuned.folder / "search/search.json", found)
    both = [*runs_under(plain.folder), *runs_under(tuned.folder)]
    compared = compare(both)
    assert {one.name for one in compared.settings} == {"mean lr=0.1", "concat tuned"}
    rows = Tables(page(compared, both, Shown())).rows("ties")
    assert {(row["fusion"][0], row["lr"][0]) for row in rows} >= {("concat", "0.3"), ("mean", "0.1")}


def test_known_truth_is_judged(runs):
    ids = runs[0].predictions("test").ids
    truth = Truth({movie: ("text", "image")[n % 2] for n, movie in enumerate(ids)}, {"Action": "switch", "Comedy": "text"})
    words = " ".join(Tables(page(compare(runs), runs, Shown(truth=truth))).words)
    assert "correlation with the truth" in words
    assert "Of 1 genres that one modality alone tells" in words


def test_gates_numbers_are_those_of_the_predictions(runs):
    test = of(runs, "gmu_original")
    rows = {row["modality"][0]: row for row in Tables(page(compare(runs), runs, Shown())).rows("mean gate")}
    for m, modality in enumerate(test[0].modalities):
        agree = [spearmanr(p.gate_by_genre[:, m, c], abs(p.contributions[:, m, c])).statistic for p in test for c in range(4)]
        for name, expected in (
            ("mean gate", np.mean([p.gate[:, m].mean() for p in test])),
            ("sd across movies", np.mean([p.gate[:, m].std(ddof=1) for p in test])),
            ("agreement with contribution", np.mean(agree)),
        ):
            text, value = rows[modality][name]
            assert float(value) == pytest.approx(expected, abs=1e-9)
            assert text == f"{expected:.3f}"


def test_a_gate_that_never_moves_is_told_so_and_gets_no_figures(sweep):
    for run in sweep.three_seeds("gmu_softmax", 1.0):
        said = run.predictions("test")
        said.present[:9, 0] = False
        said.gate = np.where(said.present, 0.5, 0.0)  # moves with what movies lack alone
        put(run, said)
    runs = runs_under(sweep.folder)
    text = page(compare(runs), runs, Shown())
    assert "The gate of gmu_softmax text+image is the same for every movie that lacks nothing (text 0.50, image 0.50)." in text
    assert "share of open features of gmu_original text+image" in text
    assert "share of open features of gmu_softmax" not in text


def test_how_far_a_gate_moves_is_of_movies_that_lack_nothing(sweep):
    gates = np.random.default_rng(0).normal(0.5, 1e-4, (80, 2))
    for run in sweep.three_seeds("gmu_softmax", 1.0):
        said = run.predictions("test")
        said.present[:20, 1] = False
        said.gate = np.where(said.present, gates, 0.0)
        put(run, said)
    runs = runs_under(sweep.folder)
    runs = [run for run in runs if "softmax" in run.folder.name]
    text = page(compare(runs), runs, Shown())
    rows = {row["modality"][0]: row for row in Tables(text).rows("mean gate")}
    for m, modality in enumerate(("text", "image")):
        assert float(rows[modality]["mean gate"][1]) == pytest.approx(gates[20:, m].mean(), abs=1e-9)
        assert float(rows[modality]["sd across movies"][1]) == pytest.approx(gates[20:, m].std(ddof=1), abs=1e-9)
    assert "The mean gate and its sd are of the 60 test movies that lack nothing." in text


def test_a_gate_that_differs_from_seed_to_seed_alone_is_told_so(sweep):
    for n, run in enumerate(sweep.three_seeds("gmu_softmax", 1.0)):
        said = run.predictions("test")
        said.gate = np.full_like(said.gate, 0.4 + 0.1 * n)
        put(run, said)
    runs = runs_under(sweep.folder)
    assert "same for every movie (text 0.40 to 0.60, image 0.40 to 0.60)." in page(compare(runs), runs, Shown())


def test_a_genre_without_movies_has_no_bars(sweep):
    runs = runs_under(sweep.folder)
    for run in runs:
        said = run.predictions("test")
        said.labels[:, 0] = False
        put(run, said)
    text = page(compare(runs), runs, Shown())
    gates = text[text.index('id="gates"') :]
    assert "<title>Comedy (" in gates
    assert "Action (0)" in gates
    assert "<title>Action (" not in gates


def test_a_truth_of_other_movies_judges_nobody(runs):
    truth = Truth({"another": "text"}, dict.fromkeys(GENRES, "switch"))
    assert "correlation with the truth" not in page(compare(runs), runs, Shown(truth=truth))


def test_what_is_lost_without_a_modality_stands_beside_the_gate(runs):
    gated = [run for run in runs if run.config["choices"]["fusion"] == "gmu_original"]
    for run in gated:
        study(run, {"text": 0.3, "image": 0.1}, by_genre=GENRES)
    found = Tables(page(compare(runs), runs, Shown()))
    rows = {row["modality"][0]: row for row in found.rows("micro F1 lost without it")}
    assert rows["text"]["micro F1 lost without it"][0] == rows["text"]["micro AP lost without it"][0] == "0.300"
    assert rows["image"]["micro F1 lost without it"][0] == "0.100"
    assert "foretold by the gate" in rows["text"]
    assert any("average precision lost" in words for words in found.words)


def test_calibration_errors_are_torchmetrics_s(runs):
    rows = {row["setting"][0].split()[0]: row for row in Tables(page(compare(runs), runs, Shown())).rows("calibration error")}
    assert set(rows) == {"gmu_original", "concat", "none"}
    for fusion, row in rows.items():
        errors = [
            float(
                binary_calibration_error(torch.from_numpy(p.probabilities).ravel(), torch.from_numpy(p.labels).ravel().int(), 10)
            )
            for p in of(runs, fusion)
        ]
        assert float(row["calibration error"][1]) == pytest.approx(np.mean(errors), abs=1e-6)


def test_the_page_is_written_beside_the_others(runs, tmp_path):
    path = write_page(compare(runs), runs, tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_poster_is_shown_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "side.jpg", exif=exif)
    shown = base64.b64decode((thumbnail(tmp_path / "side.jpg") or "").partition(",")[2])
    assert Image.open(io.BytesIO(shown)).size == (40, 60)


def test_a_poster_that_cannot_be_read_is_none(tmp_path):
    Image.new("RGB", (300, 450), "red").save(tmp_path / "good.jpeg")
    (tmp_path / "bad.jpeg").write_bytes(b"no picture")
    assert thumbnail(tmp_path / "good.jpeg").startswith("data:image/jpeg;base64,")
    assert thumbnail(tmp_path / "bad.jpeg") is None
