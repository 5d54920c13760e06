"""Runs, sweeps and comparisons as a notebook shows them: tables as DataFrames, and their findings as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from gmu_lightning import run
from gmu_lightning.api import html
from gmu_lightning.movie import UserError
from gmu_lightning.report.checklist.items import checklist
from gmu_lightning.report.comparison import Comparison, compare
from gmu_lightning.report.discovery import is_sweep, left_in, readable, readable_runs_in
from gmu_lightning.report.leaderboard import LATEX_SCORES, page_table, rows
from gmu_lightning.report.scoring import check_record, metric_label
from gmu_lightning.report.sentences import as_json, is_it_the_gate, summary
from gmu_lightning.report.settings import settings_of
from gmu_lightning.run import runs_under
from gmu_lightning.run_files import records

PAIR = ("a", "b", "difference", "low", "high", "p", "p_holm", "effect", "verdict", "seeds_needed", "sentence", "command")
SETTING = ("name", "seeds", "movies", "mean", "low", "high", "sd", "val", "letters", "warnings")
CHECK = ("item", "ok", "why", "proof", "command")
TIES = "Settings that share a letter do not differ significantly."


class Run:
    """A run's folder, whose files become tables.

    Each property reads its file anew. `run / "report.html"` is the path of a file, and `os.fspath(run)` is the folder.

    Args:
        folder: of a run that `train` or a sweep wrote.

    Raises:
        UserError: it is no run's folder.

    Attributes:
        folder: the absolute path.
        files: the reader of the files (`gmu_lightning.run.Run`).
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser().absolute()
        self.files = run.Run(self.folder)
        self.config  # noqa: B018  # raises where the folder is no run's

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, config.yaml."""
        return self.files.config

    @property
    def status(self) -> dict[str, Any]:
        """The content of status.json, such as `state` and `identity`."""
        return self.files.status

    @property
    def warnings(self) -> list[str]:
        """The warnings of the run, a sentence each."""
        return list(self.status.get("warnings", []))

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json, such as {`test/f1_micro`: value}; {} before the run has finished."""
        return self.files.metrics

    @property
    def history(self) -> pd.DataFrame:
        """A row per epoch, as in history.csv."""
        return pd.DataFrame(self.files.history).apply(pd.to_numeric)

    def predictions(self, split: str = "test") -> pd.DataFrame:
        """Return a row per movie of a split, with the columns of predictions/<split>.parquet.

        Raises:
            UserError: the file is missing or damaged.
        """
        return pd.DataFrame(self.files.predictions(split).columns())

    def _repr_html_(self) -> str:
        status, metrics, config = self.status, self.metrics, self.config
        fusion = (config.get("choices") or {}).get("fusion")
        head = f"{fusion} on {config.get('modalities')}, seed {config.get('seed')}: {status.get('state')}"
        why = [f"{status['why']}."] if status.get("why") else []
        own = ["accuracy", *LATEX_SCORES[1:]] if "val/accuracy" in metrics else LATEX_SCORES
        scores = [score for score in own if f"val/{score}" in metrics]
        lines = [
            [split, *(f"{metrics[key]:.3f}" if (key := f"{split}/{score}") in metrics else "" for score in scores)]
            for split in ("test", "val")
        ]
        names = [metric_label(score) for score in scores]
        shown = html.table(["split", *names], lines, names) if scores else ""
        return "".join(
            [html.paragraph(" ".join([head, *why])), shown, html.bullets(self.warnings), html.paragraph(str(self.folder))]
        )


class Leaderboard(pd.DataFrame):
    """A sweep's leaderboard, with the columns of leaderboard.csv. A notebook shows it with intervals and verdict letters."""

    _metadata = ("runs",)  # pandas would take another attribute for a column

    @property
    def _constructor(self) -> Any:
        return pd.DataFrame  # a selection of rows or columns is a plain table

    def _repr_html_(self) -> str:
        try:
            sound, damaged = readable(self.runs)
            return board_html(compare(sound, left=damaged))
        except UserError as reason:
            return html.paragraph(f"No intervals: {reason}") + pd.DataFrame(self)._repr_html_()


class Sweep:
    """A sweep's folder. Each property reads its files anew.

    Args:
        folder: of a sweep that `sweep`, or `train` with `-m`, wrote.

    Raises:
        UserError: it is no sweep's folder.

    Attributes:
        folder: the absolute path. It holds `report.html`.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser().absolute()
        if not is_sweep(self.folder):
            raise UserError(f"{folder} is no sweep's folder: give one that gl.sweep or train -m wrote")

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"Sweep({str(self.folder)!r})"

    @property
    def status(self) -> dict[str, Any]:
        """The content of status.json: `state`, `jobs`, and the numbers of jobs in each state."""
        return dict(records.sweep_status(self.folder / "status.json"))

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The failed jobs, each with `folder`, `overrides` and the reason, `why`."""
        return [job for job in self.status["jobs"] if job["state"] == "failed"]

    @property
    def skipped(self) -> list[dict[str, Any]]:
        """The jobs whose choices do not go together, each with `overrides` and the reason, `why`."""
        return [job for job in self.status["jobs"] if job["state"] == "skipped"]

    @property
    def runs(self) -> list[Run]:
        """The runs, sorted by name. Those that failed or were interrupted are among them."""
        return [Run(found.folder) for found in runs_under(self.folder) if (found / "config.yaml").exists()]

    @property
    def leaderboard(self) -> Leaderboard:
        """A row per setting, the best first. Damaged runs are left out."""
        found, _ = readable(runs_under(self.folder), check_record)
        board = Leaderboard(rows(settings_of(found)))
        board.runs = found
        return board

    def compare(self, metric: str = "auto", against: str | None = None) -> Compared:
        """Compare all settings, as the command `compare` does. It writes no files.

        Args:
            metric: such as `ap_micro` or `f1_micro@val`; `auto` takes the accuracy if each movie has one label, else micro F1.
            against: words of one setting's name. Only its pairs are compared.

        Raises:
            UserError: no run finished, or the metric or `against` is unknown.
        """
        found, damaged = readable_runs_in([self.folder])
        return Compared(compare(found, metric, against, [*left_in([self.folder]), *damaged]), self.folder)

    def _repr_html_(self) -> str:
        return html.paragraph(f"{self.folder}: {self.status['state']}") + self.leaderboard._repr_html_()


class Compared:
    """The settings of a sweep, compared in pairs.

    Attributes:
        comparison: all numbers (`gmu_lightning.report.comparison.Comparison`).
        folder: of the sweep.
    """

    def __init__(self, comparison: Comparison, folder: Path):
        self.comparison, self.folder = comparison, folder

    def __repr__(self) -> str:
        return self.summary

    @cached_property
    def _found(self) -> dict[str, Any]:
        return as_json(self.comparison)

    @property
    def summary(self) -> str:
        """The finding over all settings."""
        return summary(self.comparison)

    @property
    def settings(self) -> pd.DataFrame:
        """A row per setting: its mean, the ends of its 95 % interval, its score on val, and its letters."""
        return pd.DataFrame(self._found["settings"], columns=list(SETTING))

    @property
    def pairs(self) -> pd.DataFrame:
        """A row per pair: difference, 95 % interval, p values, verdict (`a`, `b` or `none`), and the finding as a sentence."""
        return pd.DataFrame(self._found["pairs"], columns=list(PAIR))

    @property
    def controls(self) -> list[str]:
        """A sentence on each gate and its control."""
        return [sentence for sentence, _ in is_it_the_gate(self.comparison)]

    @property
    def diagnoses(self) -> list[str]:
        """The findings of `evaluate diagnose=true`, a sentence each; [] before any run is diagnosed."""
        return [sentence for one in self.comparison.diagnoses for sentence in one.sentences(self.comparison.metric)]

    @property
    def checklist(self) -> pd.DataFrame:
        """A row per item of the checklist: `item`, `ok`, `why`, `proof` (a path, relative to the sweep), and `command`."""
        return pd.DataFrame([asdict(one) for one in checklist(self.comparison, self.folder)], columns=list(CHECK))

    def _repr_html_(self) -> str:
        pairs = sorted(self._found["pairs"], key=lambda row: row["verdict"] == "none")
        refused = [f"{row['a']} and {row['b']} are not compared: {row['why']}" for row in self._found["refused"]]
        return board_html(self.comparison) + html.bullets([*self.controls, *(row["sentence"] for row in pairs), *refused])


def board_html(comparison: Comparison) -> str:
    """Return the finding, and a table of the settings with intervals and letters, best first."""
    board = page_table(comparison, [])
    shown = [n for n, score in enumerate(board["scores"]) if not score["more"]]
    label = metric_label(comparison.metric)
    others = [board["scores"][n]["label"] for n in shown]
    head = [*board["names"], "seeds", label, "95 % interval", "ties", *others, *(["warnings"] if board["notes"] else [])]
    lines = [
        [
            *map(str, row["names"]),
            str(row["seeds"]),
            f"{row['mean']:.3f}",
            row["interval"],
            row["letters"],
            *(f"{row['scores'][n]:.3f}" for n in shown),
            *([row["remarks"]] if board["notes"] else []),
        ]
        for row in board["rows"]
    ]
    unscored = [f"{one.name} has no finished run: {'; '.join(one.warnings)}" for one in comparison.unscored]
    notes: Sequence[str] = [TIES] if comparison.letters else []
    return "".join(
        [
            html.paragraph(summary(comparison)),
            html.table(head, lines, ("seeds", label, *others)),
            *map(html.paragraph, notes),
            html.bullets(unscored),
        ]
    )
