"""Figures of a run and of its data, by matplotlib. Each figure's label is its alternative text, which `save` writes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gmu_lightning.decisions import Task
from gmu_lightning.files import write_atomically
from gmu_lightning.metrics import scores
from gmu_lightning.movie import MODALITIES
from gmu_lightning.run import Predictions
from gmu_lightning.visible import drawable, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure

# One colour per modality, distinct for colour-blind readers: Okabe & Ito's palette, https://jfly.uni-koeln.de/color/
COLOURS = dict(zip(MODALITIES, ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"), strict=True))
SERIES = (*COLOURS.values(), "#D55E00", "#F0E442", "#000000")  # the palette's other colours
GREYS = ("#333333", "#8C8C8C", "#C8C8C8")  # for all other series
BAR = 0.1  # inches
LETTERS_PER_INCH = 11  # of a title
GROUP = 0.9  # share of a row's height that its bars fill


def gate_figure(columns: Mapping[str, Any], title: str) -> Figure:
    """Draw the gates of each genre, from the columns of gates/by_genre.parquet.

    Left are the published bars (Arevalo et al. 2017, arXiv 1702.01992), the share of open features. In the middle are the mean
    gate and its spread across movies. Right are the mean contributions, if they are exact.
    """
    genres, modalities = list(dict.fromkeys(columns["genre"])), list(dict.fromkeys(columns["modality"]))
    values = {
        name: np.ma.masked_array(column, dtype=float).filled(np.nan).reshape(len(genres), len(modalities))
        for name, column in columns.items()
        if name not in ("genre", "modality")
    }
    units = ["share of features whose gate is open", "gate", "mean contribution to the logit"]
    exact = not np.isnan(values["contribution"]).all()
    names = [f"{genre} ({n:.0f})" for genre, n in zip(genres, values["movies"][:, 0], strict=True)]
    figure, panels = _panels(names, len(modalities), units if exact else units[:2], title)
    colours = [COLOURS[modality] for modality in modalities]
    _bars(panels[0], values["gate_open"], modalities, colours)
    spread = np.nan_to_num(values["gate_sd_across_movies"])
    for m, colour in enumerate(colours):
        at = _places(len(genres), m, len(modalities))
        panels[1].errorbar(values["gate"][:, m], at, xerr=spread[:, m], fmt="o", markersize=4, color=colour)
        panels[1].plot(values["gate_weighted"][:, m], at, "D", markersize=4, fillstyle="none", color=colour)
    panels[1].plot([], [], "o-", color=GREYS[0], markersize=4, label="mean ± sd across movies")
    panels[1].plot([], [], "D", color=GREYS[0], markersize=4, fillstyle="none", linestyle="", label="genre-weighted mean")
    for panel in panels[:2]:
        panel.set_xlim(0, 1)
        legend(panel)
    if exact:
        _bars(panels[2], values["contribution"], modalities, colours)
        panels[2].axvline(0, color=GREYS[0], linewidth=0.8)
    figure.set_label(
        f"Gates of {title} for {', '.join(modalities)}, over the test movies of each of {len(genres)} genres. "
        f"The largest standard deviation of a gate across movies is {spread.max():.2f}."
    )
    return figure


def genre_bars(predictions: Predictions, title: str) -> Figure:
    """Draw F1 of the plain decisions and average precision of each genre, with the number of its movies."""
    found = scores(predictions.labels, predictions.probabilities, predictions.genres, task=predictions.task)
    one_label = predictions.task == "multiclass"
    support = predictions.labels.sum(axis=0)
    names = [f"{genre} ({n})" for genre, n in zip(predictions.genres, support, strict=True)]
    figure, (panel,) = _panels(names, 2, ["score"], f"{predictions.split} scores by genre: {title}")
    values = [[found.get(f"{score}/{genre}", np.nan) for score in ("f1", "ap")] for genre in predictions.genres]
    _bars(panel, np.array(values), ["F1" if one_label else "F1 at 0.5", "average precision"], GREYS)
    panel.set_xlim(0, 1)
    legend(panel)
    figure.set_label(
        f"F1 and average precision of each genre on {predictions.split}, {title}: "
        f"{'accuracy' if one_label else 'micro F1'} {found['f1_micro']:.3f}, "
        f"macro F1 {found['f1_macro']:.3f}, micro AP {found['ap_micro']:.3f}."
    )
    return figure


def genre_distribution(genre_counts: Mapping[str, Mapping[str, int]], task: Task = "multilabel") -> Figure:
    """Draw {split: {genre: movies}} on a logarithmic axis, so that rare genres are visible."""
    genres = list(dict.fromkeys(genre for counts in genre_counts.values() for genre in counts))
    unit = "movies" if task == "multiclass" else "movies (a movie may have several genres)"
    figure, (panel,) = _panels(genres, len(genre_counts), [unit], "movies of each genre")
    values = np.array([[counts.get(genre, 0) for counts in genre_counts.values()] for genre in genres], dtype=int)
    values = values.reshape(len(genres), len(genre_counts))
    for bars in _bars(panel, values, list(genre_counts), GREYS):
        panel.bar_label(bars, fontsize=6, padding=2)
    panel.set_xscale("symlog", linthresh=1)
    panel.set_xlim(0, 2 * values.max(initial=1))
    legend(panel)
    figure.set_label(f"Movies of each of {len(genres)} genres in {', '.join(genre_counts)}.")
    return figure


def curve_figure(
    curves: Mapping[str, Mapping[float, Sequence[float | None]]], x_unit: str, y_unit: str, logarithmic: bool = False
) -> Figure:
    """Draw curves of estimates with their intervals.

    Args:
        curves: {name: {value: (mean, low, high)}}; the ends are None if unknown.
        x_unit, y_unit: labels of the axes.
        logarithmic: whether the x axis is.
    """
    figure = canvas(6.4, 4.2, [drawable(f"{y_unit} by {x_unit}")])
    panel = figure.subplots()
    values = sorted({value for found in curves.values() for value in found})
    aside = 0.006 * (values[-1] - values[0])
    for n, (name, found) in enumerate(curves.items()):
        place = n - (len(curves) - 1) / 2
        x = [value * 1.02**place if logarithmic else value + aside * place for value in found]
        mean = np.array([estimate[0] for estimate in found.values()], dtype=float)
        ends = np.array([estimate[1:] for estimate in found.values()], dtype=float).T  # nan where unknown
        style: dict[str, Any] = {"color": SERIES[n % len(SERIES)], "linestyle": "-" if n < len(SERIES) else "--"}
        panel.errorbar(x, mean, yerr=np.abs(ends - mean), marker="o", markersize=4, capsize=2, label=drawable(name), **style)
    if logarithmic:
        panel.set_xscale("log")
        panel.minorticks_off()
    panel.set_xticks(values, [f"{value:g}" for value in values])
    panel.set_xlabel(x_unit)
    panel.set_ylabel(y_unit)
    plain(panel)
    panel.legend(frameon=False, fontsize=8)
    last = ", ".join(f"{name} {found[max(found)][0]:.3f}" for name, found in curves.items())
    figure.set_label(f"{y_unit} by {x_unit}, with 95 % intervals. At the largest value: {last}.")
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write `<path>.png` and `<path>.svg` atomically and return both paths. The same figure gives the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    canvases: dict[str, Any] = {"png": FigureCanvasAgg, "svg": FigureCanvasSVG}
    label = visible(str(figure.get_label()))
    options: dict[str, dict[str, Any]] = {
        "png": {"metadata": {"Description": label, "Software": None}, "pil_kwargs": {"compress_level": 3}},
        "svg": {"metadata": {"Description": label, "Date": None, "Creator": None}},
    }
    engine = figure.get_layout_engine()
    if engine is not None:  # lay out once for both files
        engine.execute(figure)
        figure.set_layout_engine("none")
    figure.set_dpi(150)
    files: list[Path] = []
    for kind, own in options.items():
        files.append(path.with_name(f"{path.name}.{kind}"))
        drawn = io.BytesIO()  # Pillow does not notice a full disk
        with matplotlib.rc_context({"svg.hashsalt": "gmu_lightning", "svg.fonttype": "none"}):
            getattr(canvases[kind](figure), f"print_{kind}")(drawn, **own)  # `savefig` would draw everything twice
        write_atomically(files[-1], partial(Path.write_bytes, data=drawn.getvalue()), lasting=False)
    return files


def canvas(width: float, height: float, title: Iterable[str]) -> Figure:
    """Return an empty figure of this size in inches; `title` holds lines that are wrapped to its width."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", wspace=0.06)
    wrapped = [part for line in title for part in textwrap.wrap(line, int(width * LETTERS_PER_INCH), break_on_hyphens=False)]
    figure.suptitle("\n".join(wrapped), fontsize=10)
    return figure


def rows(panel: Axes, names: Sequence[str], room: int = 0) -> None:
    """Give a panel one row per name, the first on top, with space for at least `room` rows."""
    panel.set_yticks(range(len(names)), [drawable(name) for name in names])
    panel.set_ylim(max(len(names), room) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    plain(panel, "x")


def plain(panel: Axes, axis: Any = "both") -> None:
    """Remove a panel's frame and draw a light grid behind its data."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis=axis, color="#E0E0E0", linewidth=0.6)
    panel.set_axisbelow(True)


def legend(panel: Axes) -> None:
    """Draw a legend above a panel."""
    count = len(panel.get_legend_handles_labels()[1])
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": min(count, 3)}
    panel.legend(**place, frameon=False, fontsize=8, handlelength=1.2)


def _panels(names: Sequence[str], bars: int, units: Sequence[str], title: str) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel per unit. All panels share one row per name, with space for `bars` bars."""
    height = max(0.2, BAR * bars / GROUP) * len(names) + 1.3
    figure = canvas(3.2 * len(units) + 2.4, height, [drawable(title)])
    panels = list(figure.subplots(1, len(units), squeeze=False)[0])
    for n, (panel, unit) in enumerate(zip(panels, units, strict=True)):
        rows(panel, names if n == 0 else [], len(names))
        panel.set_xlabel(unit)
    return figure, panels


def _bars(panel: Axes, values: np.ndarray, labels: Sequence[str], colours: Sequence[str]) -> list[BarContainer]:
    """Draw values (rows, series) as horizontal bars."""
    count, series = values.shape
    return [
        panel.barh(_places(count, n, series), values[:, n], GROUP / series, color=colours[n], label=labels[n])
        for n in range(series)
    ]


def _places(names: int, bar: int, bars: int) -> np.ndarray:
    """Return the height of the `bar`-th bar of each name, (names,)."""
    return np.arange(names) + GROUP * ((bar + 0.5) / bars - 0.5)
