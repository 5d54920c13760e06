"""Runs of data.task=multiclass: compared by accuracy, and shown with a confusion matrix."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, confusion_matrix, f1_score

from gmu_lightning.metrics import main_scores
from gmu_lightning.movie import UserError
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.figures import genre_bars
from gmu_lightning.report.gates import driven
from gmu_lightning.report.leaderboard import latex, rows, table, write_leaderboard
from gmu_lightning.report.page.movies import ExampleMovie, ExampleMovies
from gmu_lightning.report.page.sections import calibration, temperature
from gmu_lightning.report.page.write import page
from gmu_lightning.report.scoring import read
from gmu_lightning.report.sentences import as_json, markdown
from gmu_lightning.report.settings import settings_of
from gmu_lightning.run import Run, runs_under

from .made_runs import GENRES, Sweep, predictions_of, replace_predictions
from .page_reader import Tables


@pytest.fixture
def single(tmp_path) -> Sweep:
    """Return a folder with single-label runs of two settings."""
    found = Sweep(tmp_path / "single", task="multiclass")
    found.rivals()
    return found


@pytest.fixture
def runs(single) -> list[Run]:
    return runs_under(single.folder)


def accuracies(runs: list[Run], fusion: str) -> list[float]:
    return [accuracy_score(p.labels.argmax(1), p.logits.argmax(1)) for p in predictions_of(runs, fusion)]


def test_compare_judges_single_labels_by_accuracy(runs):
    found = compare(runs)
    assert found.metric == as_json(found)["metric"] == "accuracy"
    assert markdown(found).startswith("# Accuracy on 80 test movies")
    (pair,) = found.pairs
    assert pair.claimed and pair.a.fusion == "gmu_original"
    for one in (pair.a, pair.b):
        assert one.scored("accuracy").scores == pytest.approx(accuracies(runs, one.fusion))
    assert list(pair.companions) == ["ap_micro"]
    assert "which needs no decision" in markdown(found) and "threshold" not in markdown(found)


def test_accuracy_and_micro_f1_give_the_same_verdict(runs):
    accuracy, micro = (as_json(compare(runs, metric))["pairs"][0] for metric in ("accuracy", "f1_micro"))
    for key in ("difference", "low", "high", "p", "p_holm", "bootstrap", "verdict"):
        assert accuracy[key] == pytest.approx(micro[key]), key


def test_the_bootstrap_draws_movies_with_their_decisions(runs):
    found = compare(runs)
    one, drawn = found.settings[0], np.random.default_rng(1)
    right = np.array([p.labels.argmax(1) == p.logits.argmax(1) for p in one.test], dtype=float)
    rows = drawn.integers(right.shape[1], size=(4000, right.shape[1]))
    means = right[:, rows].mean(axis=2)  # (S, draws)
    assert one.scored("accuracy").between_movies == pytest.approx(np.cov(means).mean(), rel=0.5)
    low, high = found.resampling.interval(one.scored("accuracy"))
    assert low < right.mean() < high


def test_a_mixture_of_tasks_is_not_compared(single, runs):
    several = Sweep(single.folder)
    several.three_seeds("mean", 1.0)
    found = compare(runs_under(single.folder))
    assert found.metric == "f1_micro"
    assert {row["why"] for row in found.refused} == {"one predicts exactly one label for each movie, the other any number"}
    text = page(found, runs, ExampleMovies())
    assert "Confusion matrix" in text


@pytest.mark.parametrize(
    ("task", "metric", "sentence"),
    [
        ("multilabel", "accuracy", "metric=accuracy does not exist for concat, whose task is multilabel: choose metric=f1_micro"),
        ("multiclass", "f1_micro@val", "metric=f1_micro@val does not exist for concat, whose task is multiclass"),
        ("multiclass", "accuracy@val", "metric=accuracy@val is no score"),
    ],
)
def test_a_metric_of_another_task_is_refused(tmp_path, task, metric, sentence):
    made = Sweep(tmp_path, task=task)
    made.run("concat")
    with pytest.raises(UserError, match=sentence):
        compare(runs_under(made.folder), metric)


def test_changed_predictions_of_single_labels_are_found(runs):
    assert read(runs[0], "test").task == "multiclass"
    predicted = runs[0].predictions("test")
    predicted.logits = predicted.logits[:, ::-1].copy()
    before = runs[0].metrics
    replace_predictions(runs[0], predicted)
    (runs[0] / "metrics.json").write_text(json.dumps(before))
    with pytest.raises(UserError, match="so one of them was changed"):
        read(runs[0], "test")


def test_leaderboard_shows_accuracy(runs, tmp_path):
    board = rows(settings_of(runs))
    assert [row["fusion"] for row in board] == ["gmu_original", "concat"]
    assert board[0]["test/accuracy/mean"] == board[0]["test/f1_micro/mean"] == np.mean(accuracies(runs, "gmu_original"))
    assert "accuracy" in table(board) and "micro F1" not in " ".join(table(board).split())
    write_leaderboard(tmp_path, board)
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| test accuracy |" in text and "of the most probable label" in text and "threshold" not in text
    tex = latex(compare(runs))
    assert "Accuracy & Macro F1 & Micro AP & Macro AP" in tex and "threshold" not in tex


def test_leaderboard_of_several_labels_has_no_accuracy(sweep):
    sweep.three_settings()
    board = rows(settings_of(runs_under(sweep.folder)))
    assert not [name for name in board[0] if "accuracy" in name]
    assert "accuracy" not in table(board)


def test_console_names_accuracy():
    assert main_scores("test", {"accuracy": 0.5, "f1_micro": 0.5, "ap_micro": 0.25}) == "test accuracy 0.5000, micro AP 0.2500"
    assert main_scores("val", {"f1_micro": 0.5, "ap_micro": 0.25}, "  ") == "val micro F1 0.5000  micro AP 0.2500"


def cells_of(text: str) -> tuple[list[str], list[list[tuple[str, str | None]]]]:
    (found,) = [one for one in Tables(text).tables if one[0][0][0] == "true label"]
    return [name for name, _ in found[0][1:]], found[1:]


def test_confusion_matrix_equals_scikit_learn_s(runs):
    text = page(compare(runs), runs, ExampleMovies())
    best = predictions_of(runs, "gmu_original")
    truth = best[0].labels.argmax(1)
    counts = sum(confusion_matrix(truth, p.logits.argmax(1), labels=range(4)) for p in best)
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    columns, lines = cells_of(text)
    assert columns == [GENRES[c] for c in order]
    for i, (head, *cells) in zip(order, lines, strict=True):
        assert head[0] == f"{GENRES[i]} ({counts[i].sum()})"
        assert [value for _, value in cells] == [str(count) for count in counts[i][order]]
        shares = [f"{count} {100 * count / counts[i].sum():.0f} %" for count in counts[i][order]]
        assert [words for words, _ in cells] == shares
    wrong = np.where(np.eye(4, dtype=bool), 0, counts)
    i, j = np.unravel_index(wrong.argmax(), wrong.shape)
    share = f"{100 * counts[i, j] / counts[i].sum():.0f} %"
    assert f"it predicts {GENRES[j]} for {share} of the movies of {GENRES[i]}" in text
    assert "summed over 3 seeds" in text


def test_confusion_matrix_marks_hits_and_shades_shares(runs):
    text = page(compare(runs), runs, ExampleMovies())
    part = text[text.index("matrix confusion") :].partition("</table>")[0]
    assert part.count('class="heat hit"') == 4 and part.count('class="heat"') == 12
    assert part.count('scope="row"') == 4 and part.count('scope="col"') == 5 and "<caption>" in part
    for share, words in re.findall(r"--share:([\d.]+).*?<small>(\d+) %", part):
        assert float(share) == pytest.approx(int(words) / 100, abs=0.0051)


def test_confusion_matrix_of_many_labels_shows_the_most_frequent(tmp_path):
    names = [f"Label {n}" for n in range(35)]
    made = Sweep(tmp_path, {"val": 200, "test": 400}, names, task="multiclass")
    runs = made.three_seeds("mean", 3.0)
    text = page(compare(runs), runs, ExampleMovies())
    columns, lines = cells_of(text)
    support = runs[0].predictions("test").labels.sum(axis=0)
    assert len(columns) == len(lines) == 30
    assert columns == [names[c] for c in np.argsort(-support, kind="stable")[:30]]
    assert "The table shows the 30 labels with most test movies, of 35." in text


def test_a_perfect_setting_has_no_error_to_name(single):
    for run in (perfect := single.three_seeds("late", 5.0)):
        predicted = run.predictions("test")
        predicted.logits = np.where(predicted.labels, 5.0, -5.0) + 0.01 * run.config["seed"]
        replace_predictions(run, predicted)
    assert "late predicts the right label for every test movie." in page(compare(perfect), perfect, ExampleMovies())


def test_page_of_single_labels_shows_no_threshold(runs):
    text = page(compare(runs), runs, ExampleMovies())
    words = " ".join(Tables(text).words)
    assert "threshold" not in words and "Genre confusion" not in words and "samples F1" not in words
    assert "The prediction is the most probable label." in words
    shown = {row["fusion"][0]: row for row in Tables(text).rows("ties")}
    for fusion in ("gmu_original", "concat"):
        assert float(shown[fusion]["accuracy"][1]) == pytest.approx(np.mean(accuracies(runs, fusion)))
    f1, ap = (one for one in Tables(text).tables if one[0][0][0] == "setting" and one[0][1][0].startswith(GENRES))
    test = predictions_of(runs, "gmu_original")
    for found, score in (
        (f1, lambda p, c: f1_score(p.labels[:, c], p.logits.argmax(1) == c)),
        (ap, lambda p, c: average_precision_score(p.labels[:, c], p.probabilities[:, c])),
    ):
        values = {name.split(" ")[0]: float(value) for (name, _), (_, value) in zip(found[0][1:], found[1][1:], strict=True)}
        for c, genre in enumerate(GENRES):
            assert values[genre] == pytest.approx(np.mean([score(p, c) for p in test]))


def test_page_marks_the_most_probable_label_of_a_movie(runs):
    examples = ExampleMovies({f"test{n:05d}": ExampleMovie("A plot.") for n in range(80)})
    text = page(compare(runs), runs, examples)
    test = predictions_of(runs, "gmu_original")
    predicted = np.mean([p.probabilities for p in test], axis=0).argmax(axis=1)
    truth = test[0].labels.argmax(axis=1)
    for card in re.findall(r'<article class="card".*?</article>', text, re.S):
        n = int(re.search(r"<strong>test(\d+)</strong>", card)[1])
        row = re.search(r'<th scope="row">gmu_original</th><td>(.*?)</td>', card, re.S)[1]
        marked = dict(re.findall(r'<span class="(right|missed|wrong)"[^>]*>(\w+) ', row))
        right = {"right": GENRES[truth[n]]}
        assert marked == (right if predicted[n] == truth[n] else {"missed": GENRES[truth[n]], "wrong": GENRES[predicted[n]]})


def test_movies_are_driven_by_contributions_to_the_predicted_label(runs):
    test = predictions_of(runs, "gmu_original")
    predicted = np.mean([p.probabilities for p in test], axis=0).argmax(axis=1)
    parts = np.mean([p.contributions for p in test], axis=0)[np.arange(80), :, predicted]  # (N, M)
    first = int((parts[:, 0] - parts[:, 1]).argmax())
    assert driven(test)["text"][0] == first


def test_temperature_of_single_labels_recovers_the_scale(runs):
    rng = np.random.default_rng(0)
    val = runs[0].predictions("val")
    logits = rng.normal(0, 2, (4000, 4))
    odds = np.exp(logits)
    drawn = (odds.cumsum(axis=1) / odds.sum(axis=1, keepdims=True) > rng.random((4000, 1))).argmax(axis=1)
    val.logits, val.labels = 3 * logits, np.eye(4, dtype=bool)[drawn]
    assert temperature(val) == pytest.approx(3, rel=0.06)
    found = calibration(val, type(val)(**{k: v for k, v in vars(val).items() if k != "probabilities"}))
    assert found.after.error < 0.02 < found.before.error


def test_figure_of_genres_names_accuracy(runs):
    label = genre_bars(runs[0].predictions("test"), "a run").get_label()
    assert re.search(r"a run: accuracy 0\.\d+, macro F1", label)
