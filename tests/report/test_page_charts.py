"""Charts of the page show the numbers of the files; the tests read them back by the charts' axes."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from gmu_lightning.files import write_rows
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.gates import Truth
from gmu_lightning.report.page.movies import ExampleMovies
from gmu_lightning.report.page.write import page
from gmu_lightning.run import Predictions, Run

from .made_runs import Sweep, replace_predictions, write_study
from .page_reader import Chart, Tables, charts

MODALITIES = ("text", "image")
MANY = ("Action", "Comedy", "Drama", "Horror", "Musical", "War", "Western")
COLUMNS = ("train/loss", "val/loss", "val/f1_micro", "val/f1_macro", "val/ap_micro", "val/ap_macro")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    """Return runs of three settings, with a distinct history for each seed and column; one seed stops early."""
    sweep, rng = Sweep(tmp_path / "sweep"), np.random.default_rng(0)
    made = [
        *sweep.three_seeds("concat", 1.0),
        *sweep.three_seeds("mean", 0.8),
        *sweep.three_seeds("none", 0.6, modalities="text"),
    ]
    for n, run in enumerate(made):
        history = [{"epoch": epoch} | dict(zip(COLUMNS, rng.random(6), strict=True)) for epoch in range(3 if n == 1 else 5)]
        write_rows(run / "history.csv", history)
    return made


def test_curves_are_means_of_histories(runs):
    text = page(compare(runs), runs, ExampleMovies())
    kinds = dict(re.findall(r'<li class="(f\d)">(.*?)</li>', text))
    drawn = [chart for chart in charts(text) if chart.units[-1] in ("val micro AP", "training loss")]
    found = {(chart.caption, curve.title): (chart, curve) for chart in drawn for curve in chart.curves}
    assert len(drawn) == 4
    assert len(found) == 6
    for fusion, modalities in (("concat", "text+image"), ("mean", "text+image"), ("none", "text")):
        for column, words in (("val/ap_micro", "val micro AP"), ("train/loss", "training loss")):
            chart, curve = found[f"{words}, {modalities}, mean over seeds", f"{fusion} {modalities}"]
            assert chart.units == ["epoch", words]
            assert kinds[curve.kind] == fusion
            means = history(runs, fusion, column)
            assert curve.x == pytest.approx(np.arange(len(means)), abs=chart.across.pixel)
            assert curve.y == pytest.approx(means, abs=chart.up.pixel)


def history(runs: list[Run], fusion: str, column: str) -> np.ndarray:
    """Return the means of a column over the seeds, for the epochs of all seeds."""
    each = [rows_of(run / "history.csv") for run in runs if run.config["choices"]["fusion"] == fusion]
    epochs = min(map(len, each))
    return np.mean([[float(row[column]) for row in rows[:epochs]] for rows in each], axis=0)


@pytest.fixture
def gated(tmp_path) -> list[Run]:
    """Return three seeds with distinct measures; two of them have a study of losses without a modality."""
    runs, rng = Sweep(tmp_path / "gated", genres=MANY).three_seeds("gmu_original", 1.0), np.random.default_rng(1)
    for run in runs:
        predicted = run.predictions("test")
        of_genre = rng.random((2, len(MANY)))
        predicted.gate_open = rng.random(predicted.gate.shape) ** 3
        predicted.gate = 0.7 + 0.3 * rng.random(predicted.gate.shape)
        predicted.gate_by_genre = 0.3 * of_genre + 0.2 * rng.random(predicted.gate_by_genre.shape)
        predicted.contributions = predicted.contributions - 2 * rng.random((2, len(MANY)))
        replace_predictions(run, predicted)
    for run, order in ((runs[0], (3, 0, 5, 6, 1, 4, 2)), (runs[2], (2, 1, 6, 5, 4, 0, 3))):
        write_study(run, {"text": 0.3, "image": 0.1}, by_genre=[MANY[n] for n in order])
    return runs


def with_genre(test: list[Predictions], measure: str, summary=np.mean, **also) -> np.ndarray:
    """Return a summary over the movies with each genre, averaged over seeds, (C, M)."""
    found = np.zeros((len(test), len(MANY), len(MODALITIES)))
    for s, p in enumerate(test):
        for c in range(len(MANY)):
            for m in range(len(MODALITIES)):
                values = getattr(p, measure)[p.labels[:, c], m]
                found[s, c, m] = summary(values if values.ndim == 1 else values[:, c], **also)
    return found.mean(axis=0)


def lost(runs: list[Run]) -> np.ndarray:
    """Return the loss of average precision without each modality, averaged over the studies, (C, M)."""
    studies = [path for run in runs for path in run.folder.glob("evaluate/*/robustness_by_genre.csv")]
    found = defaultdict(list)
    for path in studies:
        for row in rows_of(path):
            found[row["genre"], row["subset"]].append(float(row["ap"]))
    ap = {key: np.mean(values) for key, values in found.items()}
    return np.array([[ap[genre, "text+image"] - ap[genre, rest] for rest in ("image", "text")] for genre in MANY])


def test_gate_figures_show_the_measure_of_their_caption(gated):
    test = [run.predictions("test") for run in gated]
    support = test[0].labels.sum(axis=0)
    expected = {
        "share of open features": ("Share of features with an open gate", with_genre(test, "gate_open")),
        "mean gate": ("Mean gate and its standard deviation", with_genre(test, "gate")),
        "genre-weighted gate": ("Mean gate, each feature weighted", with_genre(test, "gate_by_genre")),
        "contribution to the logit": ("Exact contribution of each modality to", with_genre(test, "contributions")),
        "AP lost without it": ("Average precision of the genre that is lost", lost(gated)),
    }
    drawn = [chart for chart in charts(page(compare(gated), gated, ExampleMovies())) if "each genre and modality" in chart.about]
    assert [chart.units for chart in drawn] == [[words] for words in expected]
    for chart, (words, (caption, values)) in zip(drawn, expected.items(), strict=True):
        assert chart.caption.startswith(caption)
        assert chart.about.startswith(f"{words} of gmu_original")
        assert bars(chart) == {
            (f"{genre} ({count})", modality): (pytest.approx(values[c, m], abs=chart.across.pixel), f"{values[c, m]:.3f}")
            for c, (genre, count) in enumerate(zip(MANY, support, strict=True))
            for m, modality in enumerate(MODALITIES)
        }


def bars(chart: Chart) -> dict[tuple[str, str], tuple[float, str]]:
    """Return {(label, modality): (drawn value, printed value)}."""
    found = {}
    for bar in chart.bars:
        label, value = bar.title.split(", sd ")[0].split(": ")
        found[label.removesuffix(f", {bar.kind}"), bar.kind] = (bar.value, value)
    return found


def test_gate_whiskers_are_deviations_over_movies(gated):
    test = [run.predictions("test") for run in gated]
    mean, sd = with_genre(test, "gate"), with_genre(test, "gate", np.std, ddof=1)
    text = page(compare(gated), gated, ExampleMovies())
    (chart,) = [chart for chart in charts(text) if chart.units == ["mean gate"]]
    for bar in chart.bars:
        c, m = MANY.index(bar.title.split(" (")[0]), MODALITIES.index(bar.kind)
        assert bar.title.endswith(f", sd {sd[c, m]:.3f}")
        assert bar.ends == pytest.approx((mean[c, m] - sd[c, m], min(1.0, mean[c, m] + sd[c, m])), abs=chart.across.pixel)
    assert sum(bar.ends is not None for other in charts(text) for bar in other.bars) == len(chart.bars) == 14


def test_measures_have_their_own_correlation_with_losses(gated):
    evaluated = [run.predictions("test") for run in (gated[0], gated[2])]
    rows = {row["modality"][0]: row for row in Tables(page(compare(gated), gated, ExampleMovies())).rows("ρ(gate, AP lost)")}
    away = lost(gated)
    for m, modality in enumerate(MODALITIES):
        found = [float(rows[modality][f"ρ({what}, AP lost)"][1]) for what in ("gate", "contribution")]
        measured = [with_genre(evaluated, measure)[:, m] for measure in ("gate_by_genre", "contributions")]
        assert found == pytest.approx([spearmanr(predicted, away[:, m]).statistic for predicted in measured])
        assert abs(found[0] - found[1]) > 0.1


def test_truth_correlation_is_pearson_s_over_seeds(gated):
    test = [run.predictions("test") for run in gated]
    tells = np.random.default_rng(2).integers(2, size=len(test[0].ids))
    for run, p, follows in zip(gated, test, (0.5, -0.1, 0.3), strict=True):
        p.gate_by_genre[:, 0, :2] += follows * (tells == 0)[:, None]  # only the gate of text follows the truth
        replace_predictions(run, p)
    truth = Truth(
        {movie: MODALITIES[tell] for movie, tell in zip(test[0].ids, tells, strict=True)},
        {genre: "switch" if n < 2 else "text" for n, genre in enumerate(MANY)},
    )
    rows = Tables(page(compare(gated), gated, ExampleMovies(truth=truth))).rows("r(gate, truth)")
    for (m, modality), row in zip(enumerate(MODALITIES), rows, strict=True):
        each = [pearsonr(p.gate_by_genre[:, m, :2].mean(axis=1), tells == m).statistic for p in test]
        assert row["modality"][0] == modality
        assert float(row["r(gate, truth)"][1]) == pytest.approx(np.mean(each))
