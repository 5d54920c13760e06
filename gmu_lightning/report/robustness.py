"""Missing modalities as an experiment: its table, its figure, and what of it is said in the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gmu_lightning.files import write_json, write_rows, write_text
from gmu_lightning.report.figures import COLOURS, GREYS, LETTERS_PER_INCH, save
from gmu_lightning.visible import drawable, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BY_GENRE = "robustness_by_genre.csv"
ALL = "all"  # instead of a modality: each of them is taken from a share of the movies
SCORES = {"f1_micro": "micro F1", "f1_macro": "macro F1", "ap_micro": "micro AP", "ap_macro": "macro AP"}
SAID = (0.0, 0.5, 1.0)  # shares that the terminal tells
ROW = 0.22  # inches of a subset's bar
FEWEST_ROWS = 6  # that bars have room for, so that few of them are no thicker
LABEL = 0.17  # inches from one line's label to the next
Row = dict[str, Any]


@dataclass(frozen=True)
class Robustness:
    """What a run is worth on movies that lack modalities.

    Attributes:
        run: its folder's name.
        seed: of the order in which movies lose a modality.
        had: {modality: movies of the split that have it}, in the run's order.
        modality_dropout: {modality: probability with which it was taken away in training}.
        rows: of robustness.csv. `kind` is `share` (a `modality`, or `all`, is taken from a `share` of the movies that have it,
            `realised` being the share that whole movies make of it; None where no movie has it) or `subset` (only the modalities
            of `subset` are left); then `movies`, `movies_without_input` and the scores at the threshold 0.5.
        genres: of robustness_by_genre.csv: per `subset` and `genre` how many `movies` have it, `f1` at 0.5 and `ap`, None without
            a movie.
    """

    run: str
    split: str
    seed: int
    had: Mapping[str, int]
    modality_dropout: Mapping[str, float]
    rows: Sequence[Row]
    genres: Sequence[Row]

    @property
    def curves(self) -> dict[str, dict[float, Row]]:
        """{modality or `all`: {share: row}}."""
        found: dict[str, dict[float, Row]] = {}
        for row in self.rows:
            if row["kind"] == "share":
                found.setdefault(row["modality"], {})[row["share"]] = row
        return found

    @property
    def subsets(self) -> list[Row]:
        """A row per non-empty subset of the modalities, micro F1 falling; of equal ones the smaller subset first."""
        rows = [row for row in self.rows if row["kind"] == "subset"]
        return sorted(rows, key=lambda row: -row["f1_micro"])

    @property
    def trained(self) -> str:
        """`trained with modality_dropout: image 0.3`."""
        dropped = [f"{modality} {rate:g}" for modality, rate in self.modality_dropout.items() if rate]
        return f"trained with modality_dropout: {', '.join(dropped)}" if dropped else "trained without modality_dropout"

    @property
    def movies(self) -> int:
        """Movies of the split."""
        return self.rows[0]["movies"]


def write(study: Robustness, folder: Path) -> None:
    """robustness.csv, .json, .md, .png and .svg, and robustness_by_genre.csv."""
    write_rows(folder / "robustness.csv", study.rows)
    write_rows(folder / BY_GENRE, study.genres)
    realised = {name: {f"{share:g}": row["realised"] for share, row in curve.items()} for name, curve in study.curves.items()}
    about = {
        "run": study.run,
        "split": study.split,
        "seed": study.seed,
        "movies": study.movies,
        "had": dict(study.had),
        "modality_dropout": dict(study.modality_dropout),
        "shares": list(next(iter(study.curves.values()))),
        "realised": realised,
    }
    write_json(folder / "robustness.json", about)
    write_text(folder / "robustness.md", markdown(study))
    save(figure(study), folder / "robustness")


def summary(study: Robustness) -> str:
    """For the terminal: micro F1 at 0, 50 and 100 % missing, the best subset and the fullest."""
    width = max(map(len, ("missing", *study.curves)))
    head = "".join(f"{_percent(share):>9}" for share in SAID)
    lines = [
        f"{study.split} micro F1 without modalities, robustness_seed={study.seed}, {study.trained}",
        f"{'missing':{width}}{head}   realised at 50 %",
    ]
    for name, curve in study.curves.items():
        values = "".join(f"{curve[share]['f1_micro']:9.4f}" for share in SAID)
        of = "" if name == ALL else f" of {study.had[name]} movies"
        lines.append(f"{name:{width}}{values}   {_percent(curve[0.5]['realised'], 1)}{of}")
    best = study.subsets[0]
    fullest = next(row for row in study.subsets if row["subset"] == "+".join(study.had))
    lines.append(f"best subset: {best['subset']} {best['f1_micro']:.4f}; all modalities: {fullest['f1_micro']:.4f}")
    return "\n".join(lines)


def markdown(study: Robustness) -> str:
    """The whole study for reading: scores by share, and by subset."""
    lines = [
        f"# {study.run}: {study.split} without modalities",
        "",
        f"{study.movies} movies; {study.trained}. Scores are fractions, at the threshold 0.5. Which movies lose a modality is "
        f"drawn with seed {study.seed}: those that lack it at one share lack it at every larger one.",
    ]
    shares = list(next(iter(study.curves.values())))
    for score in ("f1_micro", "ap_micro"):
        lines += ["", f"## {study.split} {SCORES[score]} by the share of movies that lost a modality", ""]
        lines += [_line(["lost", *map(_percent, shares), "movies that have it"]), _line(["---", *["---:"] * (len(shares) + 1)])]
        for name, curve in study.curves.items():
            cells = [f"{row[score]:.4f}{_off(share, row['realised'])}" for share, row in curve.items()]
            lines.append(_line([name, *cells, "" if name == ALL else str(study.had[name])]))
    lines += [
        "",
        "A share in brackets is what whole movies make of the one asked for. `all`: each modality is lost at that share.",
    ]
    lines += ["", f"## {study.split} scores with only some modalities left", ""]
    lines += [_line(["left", *SCORES.values(), "movies without input"]), _line(["---", *["---:"] * (len(SCORES) + 1)])]
    for row in study.subsets:
        lines.append(_line([row["subset"], *(f"{row[score]:.4f}" for score in SCORES), str(row["movies_without_input"])]))
    return visible("\n".join(lines)) + "\n"


def figure(study: Robustness) -> Figure:
    """Left micro F1 against the share of movies that lost each modality, right micro F1 of every subset of the modalities."""
    from matplotlib.figure import Figure

    subsets = study.subsets
    width, height = 10.5, max(3.8, ROW * len(subsets) + 1.4)
    drawn = Figure(figsize=(width, height))
    drawn.set_layout_engine("constrained", wspace=0.06)
    lines, bars = drawn.subplots(1, 2, width_ratios=(1.25, 1))
    _lines(lines, study, height - 1.4)
    _bars(bars, subsets, list(study.had))
    letters = int(width * LETTERS_PER_INCH)
    title = f"{study.split} micro F1 without some modalities: {drawable(study.run)}"
    below = f"{study.movies} movies, robustness_seed={study.seed}, {study.trained}"
    wrapped = [line for text in (title, below) for line in textwrap.wrap(text, letters, break_on_hyphens=False)]
    drawn.suptitle("\n".join(wrapped), fontsize=10)
    at_all = ", ".join(f"{name} {curve[1.0]['f1_micro']:.3f}" for name, curve in study.curves.items())
    drawn.set_label(
        f"Micro F1 on {study.split} of {study.run}. Without a modality in every movie: {at_all}. "
        f"Of {len(subsets)} subsets of the modalities the best is {subsets[0]['subset']} with {subsets[0]['f1_micro']:.3f}."
    )
    return drawn


def _lines(panel: Axes, study: Robustness, inches: float) -> None:
    ends = {}
    for name, curve in study.curves.items():
        rows = [row for row in curve.values() if row["realised"] is not None]
        if rows:
            x, y = [100 * row["realised"] for row in rows], [row["f1_micro"] for row in rows]
            panel.plot(x, y, marker="o", markersize=4, linewidth=1.6, clip_on=False, **_style(name))
            ends[name] = y[-1]
    low, high = panel.get_ylim()
    places = spread(list(ends.values()), (high - low) * LABEL / inches)
    for (name, y), place in zip(ends.items(), places, strict=True):
        panel.plot([101.5, 106], [y, place], linewidth=0.8, color=_style(name)["color"], clip_on=False)
        panel.text(107, place, name, va="center", fontsize=9, color=GREYS[0])
    panel.set_ylim(min(low, *places), max(high, *places))
    panel.set_xlim(0, 100)
    panel.set_xlabel("movies that lost the modality (% of those that have it)")
    panel.set_ylabel("micro F1")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color="#E0E0E0", linewidth=0.6)
    panel.set_axisbelow(True)


def _style(name: str) -> dict[str, Any]:
    return {"color": GREYS[0], "linestyle": "--"} if name == ALL else {"color": COLOURS[name]}


def _bars(panel: Axes, subsets: Sequence[Row], modalities: Sequence[str]) -> None:
    """The best on top, all modalities together dark: a colour stands for what is lost, and here it would be for what is left."""
    names = [row["subset"] for row in subsets]
    colours = [GREYS[0] if name == "+".join(modalities) else GREYS[2] for name in names]
    drawn = panel.barh(range(len(names)), [row["f1_micro"] for row in subsets], 0.75, color=colours)
    panel.bar_label(drawn, fmt="%.3f", fontsize=7, padding=2)
    panel.set_yticks(range(len(names)), names, fontsize=8)
    middle, half = (len(names) - 1) / 2, max(len(names), FEWEST_ROWS) / 2
    panel.set_ylim(middle + half, middle - half)
    panel.set_xlim(left=0)
    panel.set_xlabel("micro F1 with only these modalities left")
    panel.tick_params(axis="y", length=0)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.grid(axis="x", color="#E0E0E0", linewidth=0.6)
    panel.set_axisbelow(True)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """The places nearest to the values that keep their order and are at least `gap` apart (least squares)."""
    order = np.argsort(values, kind="stable")
    blocks: list[list[float]] = []  # pooled neighbours: values less the gaps below them
    for i, n in enumerate(order):
        blocks.append([values[n] - i * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    pooled = [float(np.mean(block)) for block in blocks for _ in block]
    places = dict(zip(order.tolist(), (place + i * gap for i, place in enumerate(pooled)), strict=True))
    return [places[n] for n in range(len(values))]


def _percent(share: float | None, digits: int = 0) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def _off(asked: float, realised: float | None) -> str:
    """The share that was realised, where it is another than the one asked for."""
    return "" if realised is None or abs(realised - asked) < 0.0005 else f" ({_percent(realised, 1)})"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
