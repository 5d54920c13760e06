"""The study of missing modalities: its tables, its figure, and its summary in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmu_lightning.decisions import Task
from gmu_lightning.files import markdown_table, write_json, write_rows, write_text
from gmu_lightning.report.figures import COLOURS, GREYS, canvas, legend, plain, rows, save
from gmu_lightning.visible import drawable, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BY_GENRE = "robustness_by_genre.csv"
ALL = "all"  # each modality is removed from a share of the movies
SCORES = {"f1_micro": "micro F1", "f1_macro": "macro F1", "ap_micro": "micro AP", "ap_macro": "macro AP"}
PRINTED = (0.0, 0.5, 1.0)  # shares in the terminal
ROW = 0.22  # inches per subset
Row = dict[str, Any]


@dataclass(frozen=True)
class Robustness:
    """Scores of a run on movies that lack modalities.

    Attributes:
        run: its folder's name.
        seed: of the order in which movies lose a modality.
        had: {modality: movies of the split that have it}, in the run's order.
        modality_dropout: {modality: probability of removing it in training}.
        rows: of robustness.csv. With `kind` `share`, a `modality` (or `all`) is removed from a `share` of its movies;
            `realised` is the exact share in whole movies, None without such movies. With `kind` `subset`, only the modalities
            of `subset` remain. Then follow `movies`, `movies_without_input` and the scores by the plain decisions.
        genres: of robustness_by_genre.csv: per `subset` and `genre` the number of `movies`, `f1` at 0.5 and `ap`. A genre without
            movies has None.
        task: of the labels.
    """

    run: str
    split: str
    seed: int
    had: Mapping[str, int]
    modality_dropout: Mapping[str, float]
    rows: Sequence[Row]
    genres: Sequence[Row]
    task: Task = "multilabel"

    @property
    def words(self) -> dict[str, str]:
        """{score: its usual name}; micro F1 is the accuracy in a multiclass task."""
        return {**SCORES, "f1_micro": "accuracy"} if self.task == "multiclass" else SCORES

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
        """One row per non-empty subset of the modalities, by falling micro F1. Of ties the smaller subset comes first."""
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
    """Write robustness.csv, .json, .md, .png and .svg, and robustness_by_genre.csv."""
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
    """Return micro F1 or accuracy at 0, 50 and 100 % missing and of the best and full subsets, as text for the terminal."""
    width = max(map(len, ("missing", *study.curves)))
    head = "".join(f"{_percent(share):>9}" for share in PRINTED)
    lines = [
        f"{study.split} {study.words['f1_micro']} without modalities, robustness_seed={study.seed}, {study.trained}",
        f"{'missing':{width}}{head}   realised at 50 %",
    ]
    for name, curve in study.curves.items():
        values = "".join(f"{curve[share]['f1_micro']:9.4f}" for share in PRINTED)
        of = "" if name == ALL else f" of {study.had[name]} movies"
        lines.append(f"{name:{width}}{values}   {_percent(curve[0.5]['realised'], 1)}{of}")
    best = study.subsets[0]
    fullest = next(row for row in study.subsets if row["subset"] == "+".join(study.had))
    lines.append(f"best subset: {best['subset']} {best['f1_micro']:.4f}; all modalities: {fullest['f1_micro']:.4f}")
    return "\n".join(lines)


def markdown(study: Robustness) -> str:
    """Return the content of robustness.md: scores by share and by subset."""
    at = ", at the threshold 0.5" if study.task == "multilabel" else ""
    lines = [
        f"# {study.run}: {study.split} without modalities",
        "",
        f"{study.movies} movies; {study.trained}. Scores are fractions{at}. Which movies lose a modality is "
        f"drawn with seed {study.seed}: those that lack it at one share lack it at every larger one.",
    ]
    shares = list(next(iter(study.curves.values())))
    for score in ("f1_micro", "ap_micro"):
        lines += ["", f"## {study.split} {study.words[score]} by the share of movies that lost a modality", ""]
        rows = []
        for name, curve in study.curves.items():
            cells = [f"{row[score]:.4f}{_off(share, row['realised'])}" for share, row in curve.items()]
            rows.append([name, *cells, "" if name == ALL else str(study.had[name])])
        head = ["lost", *map(_percent, shares), "movies that have it"]
        lines += markdown_table(head, rows, head[1:])
    lines += [
        "",
        "A share in brackets is what whole movies make of the one asked for. `all`: each modality is lost at that share.",
    ]
    lines += ["", f"## {study.split} scores with only some modalities left", ""]
    head = ["left", *study.words.values(), "movies without input"]
    scores = ([f"{row[score]:.4f}" for score in SCORES] for row in study.subsets)
    rows = [[row["subset"], *of, str(row["movies_without_input"])] for row, of in zip(study.subsets, scores, strict=True)]
    lines += markdown_table(head, rows, head[1:])
    return visible("\n".join(lines)) + "\n"


def figure(study: Robustness) -> Figure:
    """Draw micro F1 or accuracy by the share of movies that lost a modality (left), and of every subset of modalities (right)."""
    subsets, score = study.subsets, study.words["f1_micro"]
    title = f"{study.split} {score} without some modalities: {drawable(study.run)}"
    below = f"{study.movies} movies, robustness_seed={study.seed}, {study.trained}"
    drawn = canvas(10.5, max(3.8, ROW * len(subsets) + 1.4), [title, below])
    left, right = drawn.subplots(1, 2, width_ratios=(1.25, 1))
    for name, curve in study.curves.items():
        known = [row for row in curve.values() if row["realised"] is not None]
        x, y = [100 * row["realised"] for row in known], [row["f1_micro"] for row in known]
        style: dict[str, Any] = {"color": GREYS[0], "linestyle": "--"} if name == ALL else {"color": COLOURS[name]}
        if known:
            left.plot(x, y, marker="o", markersize=4, linewidth=1.6, clip_on=False, label=name, **style)
    left.set_xlim(0, 100)
    left.set_xlabel("movies that lost the modality (% of those that have it)")
    left.set_ylabel(score)
    plain(left)
    legend(left)
    rows(right, [row["subset"] for row in subsets], room=6)
    colours = [GREYS[0] if row["subset"] == "+".join(study.had) else GREYS[2] for row in subsets]  # dark: all modalities
    bars = right.barh(range(len(subsets)), [row["f1_micro"] for row in subsets], 0.75, color=colours)
    right.bar_label(bars, fmt="%.3f", fontsize=7, padding=2)
    right.tick_params(axis="y", labelsize=8)
    right.set_xlim(left=0)
    right.set_xlabel(f"{score} with only these modalities left")
    at_all = ", ".join(f"{name} {curve[1.0]['f1_micro']:.3f}" for name, curve in study.curves.items())
    drawn.set_label(
        f"{score[0].upper()}{score[1:]} on {study.split} of {study.run}. Without a modality in every movie: {at_all}. "
        f"Of {len(subsets)} subsets of the modalities the best is {subsets[0]['subset']} with {subsets[0]['f1_micro']:.3f}."
    )
    return drawn


def _percent(share: float | None, digits: int = 0) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def _off(requested: float, realised: float | None) -> str:
    """Return the realised share if it differs from the requested one."""
    return "" if realised is None or abs(realised - requested) < 0.0005 else f" ({_percent(realised, 1)})"
