"""The page has the numbers of the files, escapes foreign text, and loads no external resource."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score
from torchmetrics.functional.classification import binary_calibration_error

from gmu_lightning.files import write_json
from gmu_lightning.metrics import tune_per_genre
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.page.gates import DRAWN
from gmu_lightning.report.page.movies import SAMPLE, ExampleMovie, ExampleMovies, chosen_movies, thumbnail
from gmu_lightning.report.page.write import page
from gmu_lightning.report.sentences import pair_sentence
from gmu_lightning.run import Run, runs_under

from .made_runs import GENRES, Sweep, predictions_of, replace_predictions
from .page_reader import Tables

PIXEL = "data:image/jpeg;base64,/9j/4AAQ"


def test_leaderboard_numbers_equal_scikit_learn(runs):
    shown = list(Tables(page(compare(runs), runs, ExampleMovies())).rows("micro F1"))
    measured = [row for row in shown if "published" not in row["fusion"][0]]
    assert [row["fusion"][0] for row in measured] == ["gmu_original", "concat", "none"]
    for row in measured:
        test = predictions_of(runs, row["fusion"][0])
        for over in ("micro", "macro", "weighted", "samples"):
            expected = np.mean([f1_score(p.labels, p.probabilities >= 0.5, average=over, zero_division=0) for p in test])
            assert float(row[f"{over} F1"][1]) == pytest.approx(expected, abs=1e-9)
            assert row[f"{over} F1"][0] == f"{expected:.3f}"
        for over in ("micro", "macro"):
            expected = np.mean([average_precision_score(p.labels, p.probabilities, average=over) for p in test])
            assert float(row[f"{over} AP"][1]) == pytest.approx(expected, abs=1e-9)
            for rule, words in (("val", "a threshold tuned on val"), ("val_per_genre", "thresholds tuned on val per genre")):
                tuned = [run.metrics[f"test/f1_{over}@{rule}"] for run in runs if predictions_of([run], row["fusion"][0])]
                assert float(row[f"{over} F1 at {words}"][1]) == pytest.approx(np.mean(tuned), abs=1e-9)
        assert row["seeds"] == ("3", "3")


def test_parameters_and_seconds_follow_the_setting(runs):
    totals = {"gmu_original": 3_000, "concat": 2_000, "none": 1_000}
    for n, run in enumerate(runs):
        total = totals[run.config["choices"]["fusion"]]
        own = {"parameters/total": total, "parameters/trainable": total - 7, "parameters/fusion": 70 + n, "seconds/total": 2.0**n}
        write_json(run / "metrics.json", run.metrics | own)
    shown = {row["fusion"][0]: row for row in Tables(page(compare(runs), runs, ExampleMovies())).rows("parameters")}
    for fusion, total in totals.items():
        assert shown[fusion]["parameters"] == (str(total), str(total))
        seconds = [run.metrics["seconds/total"] for run in runs if run.config["choices"]["fusion"] == fusion]
        assert float(shown[fusion]["seconds"][1]) == pytest.approx(np.mean(seconds))


def test_genre_numbers_equal_scikit_learn(runs):
    found = Tables(page(compare(runs), runs, ExampleMovies()))
    heads = [f"{g} ({int(c)})" for g, c in zip(GENRES, predictions_of(runs, "none")[0].labels.sum(axis=0), strict=True)]
    tables = [t for t in found.tables if t[0][0][0] == "setting" and {text for text, _ in t[0][1:]} == set(heads)]
    captions = [words for words in found.words if words.endswith("in brackets the number of test movies with the genre")]
    assert [words.split(", mean")[0] for words in captions] == [
        "F1 at the threshold .5",
        "Average precision",
        "F1 at one threshold per genre, tuned on val",
        "Threshold per genre, tuned on val",
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
    """Return the threshold of genre c that is tuned on val."""
    p = run.predictions("val")
    return tune_per_genre(p.labels, p.probabilities)[c]


def f1_tuned(run: Run, c: int) -> float:
    p = run.predictions("test")
    return f1_score(p.labels[:, c], p.probabilities[:, c] >= threshold(run, c))


def test_genre_shares_and_confusions_are_counted(runs):
    text = page(compare(runs), runs, ExampleMovies())
    tables = Tables(text).tables
    labels = {split: runs[0].predictions(split).labels for split in ("val", "test")}
    (shares,) = [table for table in tables if table[0][0][0] == "split"]
    assert [[text for text, _ in row] for row in shares[1:]] == [
        [f"{split} ({len(has)})", *(f"{share:.2f}" for share in has.mean(axis=0))] for split, has in labels.items()
    ]
    predicted_table, true_table = [table for table in tables if table[0][0][0] == "movies that have"]
    best = predictions_of(runs, "gmu_original")
    for i, genre in enumerate(GENRES):
        has = labels["test"][:, i]
        predicted = np.mean([(p.probabilities[has] >= 0.5).mean(axis=0) for p in best], axis=0)
        for table, expected in ((predicted_table, predicted), (true_table, labels["test"][has].mean(axis=0))):
            name, *values = table[1 + i]
            assert name[0] == genre
            assert [float(value) for _, value in values] == pytest.approx(expected.tolist())
    count, row, column = re.search(r"% of the (\d+) test movies of (\w+) are also (\w+),", text).groups()
    counts = labels["test"].sum(axis=0)
    assert counts[GENRES.index(row)] != counts[GENRES.index(column)]
    assert int(count) == counts[GENRES.index(row)]


def test_absence_of_confusion_is_stated(sweep):
    runs = sweep.three_seeds("late", 9.0)
    for n, run in enumerate(runs):
        predicted = run.predictions("test")
        predicted.logits = np.where(predicted.labels, 5.0 + n, -5.0)
        replace_predictions(run, predicted)
    text = page(compare(runs), runs, ExampleMovies())
    assert "every genre is predicted together with another at most as often as the labels have both" in text


def test_page_has_the_comparison_s_intervals_and_sentences(runs):
    found = compare(runs)
    text = page(found, runs, ExampleMovies())
    rows = {row["fusion"][0]: row for row in Tables(text).rows("ties")}
    for one in found.settings:
        _, low, high = one.scored("f1_micro").interval
        assert rows[one.setting.values["fusion"]]["95 % interval"][0] == f"[{low:.3f}, {high:.3f}]"
    words = " ".join(Tables(text).words)
    for pair in found.pairs:
        assert pair_sentence(pair) in words


def test_pair_table_has_the_comparison_s_numbers(runs):
    found = compare(runs)
    rows = list(Tables(page(found, runs, ExampleMovies())).rows("permutation p"))
    assert len(rows) == len(found.pairs) == 3
    for row, pair in zip(rows, found.pairs, strict=True):
        assert (row["better"][0], row["than"][0]) == (pair.a.name, pair.b.name)
        for name, value in (
            ("difference", pair.difference.mean),
            ("p", pair.difference.p),
            ("Holm's p", pair.p_holm),
            ("effect (g)", pair.difference.effect),
            ("micro F1 at a threshold tuned on val", pair.companions["f1_micro@val"].mean),
            ("micro AP", pair.companions["ap_micro"].mean),
            ("its p", pair.tests.p_bootstrap),
            ("permutation p", pair.tests.p_permutation),
        ):
            assert float(row[name][1]) == pytest.approx(value)
        assert row["bootstrap"][0] == f"[{pair.tests.low:.3f}, {pair.tests.high:.3f}]"


def test_page_loads_no_resource_and_describes_its_images(runs):
    found = compare(runs)
    movies = {movie: ExampleMovie("A plot.", PIXEL) for movie in chosen_movies(found)}
    text = page(found, runs, ExampleMovies(movies))
    for tag, attributes in Tables(text).tags:
        assert tag not in ("link", "iframe", "object", "embed")
        for name in ("src", "href", "srcset", "action"):
            assert not re.match(r"(https?:)?//", attributes.get(name) or "")
        if tag == "script":
            assert "src" not in attributes
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg" and "aria-hidden" not in attributes:
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
    assert "@import" not in text
    assert "url(" not in text


def test_foreign_text_is_escaped(compared):
    evil = '</script><script>alert("x")</script>'
    compared.three_seeds("mean", typed=[f"note={evil}"], note=evil)
    compared.run("concat", 9).warn(f"odd: {evil}")
    runs = runs_under(compared.folder)
    found = compare(runs)
    shown = ExampleMovies({movie: ExampleMovie(evil + " & more", None) for movie in chosen_movies(found)})
    text = page(found, runs, shown)
    assert evil not in text
    assert len(re.findall("<script>", text)) == 1
    assert evil + " & more" in "".join(Tables(text).words)


def test_movie_card_has_predictions_and_contributions(runs):
    found, test = compare(runs), predictions_of(runs, "gmu_original")
    row = {movie: n for n, movie in enumerate(test[0].ids)}
    movie = next(movie for movie in chosen_movies(found) if test[0].labels[row[movie]].sum() > 1)
    text = page(found, runs, ExampleMovies({movie: ExampleMovie("A plot.", None)}))
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


def test_drawn_intervals_have_the_numbers(runs):
    found = compare(runs)
    text = page(found, runs, ExampleMovies())
    for one in found.settings:
        mean, low, high = one.scored("f1_micro").interval
        assert f"<title>{one.name}: {mean:.4f} [{low:.4f}, {high:.4f}]</title>" in text
        assert f'[{low:.3f}, {high:.3f}] <span class="note">{found.letters[one.name]}</span>' in text


def test_published_rows_are_marked_and_untested(runs):
    found = compare(runs)
    text = page(found, runs, ExampleMovies())
    rows = [row for row in Tables(text).rows("micro F1") if "published" in row["fusion"][0]]
    gmu = next(row for row in rows if row["fusion"][0].startswith("GMU"))
    assert float(gmu["micro F1"][1]) == 0.630
    note = re.search(r"source (\d+)$", gmu["fusion"][0])[1]
    assert "arXiv 1702.01992" in re.search(rf'<li id="remark-{note}">(.*?)</li>', text)[1]
    assert all("GMU" not in (pair.a.name, pair.b.name) for pair in found.pairs)


def test_page_of_sixty_settings_is_below_five_megabytes(tmp_path):
    sweep = Sweep(tmp_path, genres=[f"Genre {n}" for n in range(23)], movies={"val": 60, "test": 100})
    runs = [sweep.run(f"gmu_{n}", 1, 1 + 0.02 * n) for n in range(60)]
    found = compare(runs)
    shown = ExampleMovies(
        {movie: ExampleMovie("word " * 240, "data:image/jpeg;base64," + "x" * 8000) for movie in chosen_movies(found)}
    )
    text = page(found, runs, shown)
    assert 1e6 < len(text.encode()) < 5e6
    words = " ".join(" ".join(Tables(text).words).split())
    assert "12 of 100 test movies, drawn with seed 0" in words
    assert text.count("share of open features of gmu_") == DRAWN
    undrawn = ", ".join(one.name for one in found.settings[DRAWN:])
    assert f"Figures of the best {DRAWN} settings only. For {undrawn}, see gates/by_genre.parquet" in words


def test_movies_are_a_stated_sample_with_predictions(runs):
    found = compare(runs)
    shown = ExampleMovies({movie: ExampleMovie(f"Plot of {movie}.", PIXEL) for movie in chosen_movies(found)})
    text = page(found, runs, shown)
    words = " ".join(" ".join(Tables(text).words).split())
    assert f"{SAMPLE} of 80 test movies, drawn with seed 0" in words
    assert "Most driven by text, for gmu_original" in words
    movie = found.settings[0].test[0].ids[0]
    assert text.count("Predictions of 3 settings") >= SAMPLE
    assert (f"Plot of {movie}." in words) == (movie in chosen_movies(found))


def test_failed_and_skipped_jobs_are_listed(compared):
    compared.run("sum", 1).end("failed", "the disk is full")
    compared.run("max", 1).end("skipped", "fusion=max takes at least 2 modalities")
    runs = runs_under(compared.folder)
    words = " ".join(Tables(page(compare(runs), runs, ExampleMovies())).words)
    assert "the disk is full" in words
    assert "fusion=max takes at least 2 modalities (1 job)" in words


def test_scores_of_zero_are_drawn(tmp_path):
    alone = Sweep(tmp_path / "alone")
    for n, run in enumerate(alone.three_seeds("mean")):
        for split in ("val", "test"):
            predicted = run.predictions(split)
            predicted.logits = np.full_like(predicted.logits, -3.0 - n)
            replace_predictions(run, predicted)
    runs = runs_under(alone.folder)
    assert "0.000" in page(compare(runs), runs, ExampleMovies())


def test_search_section_has_budget_spread_and_winners(compared, runs):
    trials = [{"params": {"lr": 0.1 * n}, "score": score} for n, score in enumerate((0.2, 0.6, 0.4, None))]
    settings = [
        {"overrides": ["fusion=concat", "seed"], "why_not": None, "trials": trials, "best": {"lr": 0.1}},
        {"overrides": ["fusion=none", "seed"], "why_not": "it takes one modality", "trials": [], "best": None},
    ]
    space = {"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "dim": {"choices": [8, 16]}}
    found = {"trials": 4, "space": space, "seed": 0, "monitor": "val/ap_micro", "settings": settings}
    (compared.folder / "search").mkdir()
    (compared.folder / "search/search.json").write_text(json.dumps(found))
    text = page(compare(runs), runs, ExampleMovies())
    assert "4 trials of each setting, judged by val/ap_micro with seed 0" in text
    assert "Space: lr: 0.0001 to 0.01, logarithmic, dim: 8 or 16." in text
    concat, none = Tables(text).rows("best with")
    assert [concat[name][0] for name in ("setting", "trials with a score", "lowest on val", "median", "best", "best with")] == [
        *("fusion=concat", "3", "0.2000", "0.4000", "0.6000", "lr=0.1")
    ]
    assert none["best with"][0] == "it takes one modality"


def test_searched_values_are_columns_and_no_part_of_names(tmp_path):
    tuned, plain = Sweep(tmp_path / "tuned"), Sweep(tmp_path / "plain")
    tuned.three_seeds("concat", typed=["lr=0.3"], lr=0.3)
    plain.three_seeds("mean", typed=["lr=0.1"], lr=0.1)
    settings = [{"overrides": ["fusion=concat"], "why_not": None, "trials": [], "best": {"lr": 0.3}}]
    found = {"trials": 4, "space": {"lr": {"low": 0.1, "high": 0.5}}, "seed": 0, "monitor": "val/ap_micro", "settings": settings}
    write_json(tuned.folder / "search/search.json", found)
    both = [*runs_under(plain.folder), *runs_under(tuned.folder)]
    compared = compare(both)
    assert {one.name for one in compared.settings} == {"mean lr=0.1", "concat tuned"}
    rows = Tables(page(compared, both, ExampleMovies())).rows("ties")
    assert {(row["fusion"][0], row["lr"][0]) for row in rows} >= {("concat", "0.3"), ("mean", "0.1")}


def test_calibration_errors_equal_torchmetrics(runs):
    rows = {row["setting"][0].split()[0]: row for row in Tables(page(compare(runs), runs, ExampleMovies())).rows("ECE")}
    assert set(rows) == {"gmu_original", "concat", "none"}
    for fusion, row in rows.items():
        errors = [
            float(
                binary_calibration_error(torch.from_numpy(p.probabilities).ravel(), torch.from_numpy(p.labels).ravel().int(), 10)
            )
            for p in predictions_of(runs, fusion)
        ]
        assert float(row["ECE"][1]) == pytest.approx(np.mean(errors), abs=1e-6)


def test_thumbnail_follows_the_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "side.jpg", exif=exif)
    shown = base64.b64decode((thumbnail(tmp_path / "side.jpg") or "").partition(",")[2])
    assert Image.open(io.BytesIO(shown)).size == (40, 60)


def test_unreadable_poster_gives_no_thumbnail(tmp_path):
    Image.new("RGB", (300, 450), "red").save(tmp_path / "good.jpeg")
    (tmp_path / "bad.jpeg").write_bytes(b"no picture")
    assert thumbnail(tmp_path / "good.jpeg").startswith("data:image/jpeg;base64,")
    assert thumbnail(tmp_path / "bad.jpeg") is None
