"""Figures show their numbers, and their files are reproducible."""

from __future__ import annotations

import numpy as np
import pytest

from gmu_lightning.metrics import scores
from gmu_lightning.report.figures import COLOURS, gate_figure, genre_bars, genre_distribution, save
from gmu_lightning.report.gates import by_genre
from gmu_lightning.run import Predictions

GENRES = ("Drama", "Sci-Fi", "Film-Noir")


def predictions(modalities: tuple[str, ...], contributions: bool = True) -> Predictions:
    rng = np.random.default_rng(0)
    n, m, c = 20, len(modalities), len(GENRES)
    return Predictions(
        ids=[str(i) for i in range(n)],
        split="test",
        genres=GENRES,
        modalities=modalities,
        present=np.ones((n, m), dtype=bool),
        logits=rng.normal(size=(n, c)),
        labels=rng.random((n, c)) < np.array([0.8, 0.4, 0.0]),
        data_fingerprint={},
        gate=rng.random((n, m)),
        gate_open=rng.random((n, m)),
        gate_by_genre=rng.random((n, m, c)),
        contributions=rng.normal(size=(n, m, c)) if contributions else None,
    )


def widths(panel, colour: str) -> list[float]:
    """Return the lengths of a panel's bars of one colour, from the top."""
    from matplotlib.colors import to_hex

    bars = [bar for bar in panel.patches if to_hex(bar.get_facecolor()) == colour.lower()]
    return [bar.get_width() for bar in sorted(bars, key=lambda bar: bar.get_y())]


@pytest.mark.parametrize("modalities", [("image", "text"), ("text", "image", "video", "audio", "metadata")])
def test_gate_bars_show_open_features_and_contributions(modalities):
    columns = by_genre(predictions(modalities))
    bars, _, contributions = gate_figure(columns, "a run").axes
    for modality in modalities:
        own = columns["modality"] == modality
        np.testing.assert_allclose(widths(bars, COLOURS[modality]), columns["gate_open"][own].filled(np.nan))
        np.testing.assert_allclose(widths(contributions, COLOURS[modality]), columns["contribution"][own].filled(np.nan))


def test_genre_labels_have_movie_counts():
    predicted = predictions(("text", "image"))
    names = [label.get_text() for label in gate_figure(by_genre(predicted), "a run").axes[0].get_yticklabels()]
    assert names == [f"{genre} ({n})" for genre, n in zip(GENRES, predicted.labels.sum(axis=0), strict=True)]


def test_missing_contributions_are_not_drawn():
    figure = gate_figure(by_genre(predictions(("text", "image"), contributions=False)), "a run")
    assert [panel.get_xlabel() for panel in figure.axes] == ["share of features whose gate is open", "gate"]


def test_genre_bars_show_the_scores():
    predicted = predictions(("text",))
    found = scores(predicted.labels, predicted.probabilities, predicted.genres)
    (panel,) = genre_bars(predicted, "a run").axes
    f1, ap = panel.containers
    assert [bar.get_width() for bar in f1] == [found[f"f1/{genre}"] for genre in GENRES]
    np.testing.assert_array_equal([bar.get_width() for bar in ap], [found.get(f"ap/{genre}", np.nan) for genre in GENRES])


def test_distribution_labels_every_count():
    counts = {"train": {"Drama": 700, "Western": 3}, "val": {"Drama": 90}, "test": {"Drama": 200, "Western": 1}}
    (panel,) = genre_distribution(counts).axes
    assert [[bar.get_width() for bar in bars] for bars in panel.containers] == [[700, 3], [90, 0], [200, 1]]
    assert {"700", "3", "90", "0", "200", "1"} <= {text.get_text() for text in panel.texts}


def test_saved_figures_are_reproducible_with_a_description(tmp_path):
    for name in ("first", "second.with.dots"):
        files = save(gate_figure(by_genre(predictions(("text", "image"))), "a run"), tmp_path / name)
        assert [file.name for file in files] == [f"{name}.png", f"{name}.svg"]
    svg = (tmp_path / "first.svg").read_bytes()
    assert svg == (tmp_path / "second.with.dots.svg").read_bytes()
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.with.dots.png").read_bytes()
    assert "Gates of a run for text, image, over the test movies of each of 3 genres" in svg.decode()
    assert ">Sci-Fi (" in svg.decode()  # as text, not as outlines
