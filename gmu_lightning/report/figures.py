"""Figures of a run and of its data. Each carries its alternative text as its label, and `save` writes it into the files."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gmu_lightning.files import write_atomically
from gmu_lightning.metrics import scores
from gmu_lightning.movie import MODALITIES
from gmu_lightning.run import Predictions
from gmu_lightning.visible import drawable, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One colour per modality everywhere, told apart by colour-blind readers: Okabe & Ito's palette, https://jfly.uni-koeln.de/color/
COLOURS = dict(zip(MODALITIES, ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"), strict=True))
GREYS = ("#333333", "#8C8C8C", "#C8C8C8")  # for what is no modality
BAR = 0.1  # inches
LETTERS_PER_INCH = 11  # of a title
GROUP = 0.9  # of a genre's height; the rest parts it from the next


def gate_figure(columns: Mapping[str, Any], title: str) -> Figure:
    """What the gates do for each genre, from the columns of gates/by_genre.parquet.

    Left the published bars (Arevalo et al. 2017, arXiv 1702.01992): the share of open features. In the middle what they hide:
    how far a gate is open and how much that differs from movie to movie. Right, where they are exact, the mean contributions.
    """
    genres = list(dict.fromkeys(columns["genre"]))
    modalities = list(dict.fromkeys(columns["modality"]))
    shape = (len(genres), len(modalities))
    values = {
        name: np.ma.masked_array(column, dtype=float).filled(np.nan).reshape(shape)
        for name, column in columns.items()
        if name not in ("genre", "modality")
    }
    exact = not np.isnan(values["contribution"]).all()
    names = [f"{genre} ({n:.0f})" for genre, n in zip(genres, values["movies"][:, 0], strict=True)]
    figure, panels = _panels(names, len(modalities), 3 if exact else 2, title)
    for m, modality in enumerate(modalities):
        at, colour = _places(len(genres), m, len(modalities)), COLOURS[modality]
        height = GROUP / len(modalities)
        panels[0].barh(at, values["gate_open"][:, m], height, color=colour, label=modality)
        spread = np.nan_to_num(values["gate_sd_across_movies"][:, m])
        panels[1].errorbar(values["gate"][:, m], at, xerr=spread, fmt="o", markersize=4, color=colour)
        panels[1].plot(values["gate_weighted"][:, m], at, "D", markersize=4, fillstyle="none", color=colour)
        if exact:
            panels[2].barh(at, values["contribution"][:, m], height, color=colour)
    for panel, words in zip(
        panels, ("share of features whose gate is open", "gate", "mean contribution to the logit"), strict=False
    ):
        panel.set_xlabel(words)
    for panel in panels[:2]:
        panel.set_xlim(0, 1)
    panels[1].plot([], [], "o-", color=GREYS[0], markersize=4, label="mean ± sd across movies")
    panels[1].plot([], [], "D", color=GREYS[0], markersize=4, fillstyle="none", linestyle="", label="genre-weighted mean")
    if exact:
        panels[2].axvline(0, color=GREYS[0], linewidth=0.8)
    _legend(panels[0], len(modalities))
    _legend(panels[1], 2)
    figure.set_label(
        f"Gates of {title} for {', '.join(modalities)}, over the test movies of each of {len(genres)} genres. "
        f"The largest standard deviation of a gate across movies is {np.nan_to_num(values['gate_sd_across_movies']).max():.2f}."
    )
    return figure


def genre_bars(predictions: Predictions, title: str) -> Figure:
    """F1 at 0.5 and average precision of each genre; behind its name how many movies of the split have it."""
    found = scores(predictions.labels, predictions.probabilities, predictions.genres)
    support = predictions.labels.sum(axis=0)
    names = [f"{genre} ({n})" for genre, n in zip(predictions.genres, support, strict=True)]
    figure, (panel,) = _panels(names, 2, 1, f"{predictions.split} scores by genre: {title}")
    for i, (word, label) in enumerate((("f1", "F1 at 0.5"), ("ap", "average precision"))):
        values = [found.get(f"{word}/{genre}", np.nan) for genre in predictions.genres]
        panel.barh(_places(len(names), i, 2), values, GROUP / 2, color=GREYS[i], label=label)
    panel.set_xlim(0, 1)
    panel.set_xlabel("score")
    _legend(panel, 2)
    figure.set_label(
        f"F1 and average precision of each genre on {predictions.split}, {title}: micro F1 {found['f1_micro']:.3f}, "
        f"macro F1 {found['f1_macro']:.3f}, micro AP {found['ap_micro']:.3f}."
    )
    return figure


def genre_distribution(genre_counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """How many movies of each split have each genre, {split: {genre: movies}}; on a logarithmic axis, so that rare ones show."""
    genres = list(dict.fromkeys(genre for counts in genre_counts.values() for genre in counts))
    figure, (panel,) = _panels(genres, len(genre_counts), 1, "movies of each genre")
    for i, (split, counts) in enumerate(genre_counts.items()):
        values = [counts.get(genre, 0) for genre in genres]
        bars = panel.barh(
            _places(len(genres), i, len(genre_counts)), values, GROUP / len(genre_counts), color=GREYS[i], label=split
        )
        panel.bar_label(bars, fontsize=6, padding=2)
    panel.set_xscale("symlog", linthresh=1)
    panel.set_xlim(0, 2 * max((max(counts.values(), default=1) for counts in genre_counts.values()), default=1))
    panel.set_xlabel("movies (a movie may have several genres)")
    _legend(panel, len(genre_counts))
    figure.set_label(f"Movies of each of {len(genres)} genres in {', '.join(genre_counts)}.")
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """`<path>.png` and `<path>.svg`, atomically; the same figure gives the same SVG. Returns both."""
    import matplotlib

    label = visible(str(figure.get_label()))
    about: dict[str, dict[str, Any]] = {
        "png": {"Description": label, "Software": None},
        "svg": {"Description": label, "Date": None, "Creator": None},
    }
    files = []
    engine = figure.get_layout_engine()
    if engine is not None:  # once for both files, which would each do it again
        engine.execute(figure)
        figure.set_layout_engine("none")
    for kind, metadata in about.items():
        file = path.with_name(f"{path.name}.{kind}")

        def write(temporary: Path, kind: str = kind, metadata: dict[str, Any] = metadata) -> None:
            figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)

        with matplotlib.rc_context({"svg.hashsalt": "gmu_lightning", "svg.fonttype": "none"}):
            write_atomically(file, write, lasting=False)
        files.append(file)
    return files


def _panels(names: Sequence[str], bars: int, panels: int, title: str) -> tuple[Figure, list[Axes]]:
    """A figure of `panels` columns that share one row per name, the first on top; each row has room for `bars` bars."""
    from matplotlib.figure import Figure

    height = max(0.2, BAR * bars / GROUP) * len(names) + 1.3
    width = 3.2 * panels + 2.4
    figure = Figure(figsize=(width, height))
    names, title = [drawable(name) for name in names], drawable(title)
    figure.set_layout_engine("constrained", wspace=0.06)
    axes = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
    for axis in axes:
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(axis="y", length=0)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.grid(axis="x", color="#E0E0E0", linewidth=0.6)
        axis.set_axisbelow(True)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    figure.suptitle("\n".join(textwrap.wrap(title, int(width * LETTERS_PER_INCH), break_on_hyphens=False)), fontsize=10)
    return figure, axes


def _places(names: int, bar: int, bars: int) -> np.ndarray:
    """Where the `bar`-th of each name's bars stands."""
    return np.arange(names) + GROUP * ((bar + 0.5) / bars - 0.5)


def _legend(panel: Axes, columns: int) -> None:
    panel.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(columns, 3), frameon=False, fontsize=8, handlelength=1.2
    )
