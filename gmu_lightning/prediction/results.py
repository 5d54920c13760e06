"""Predictions of rows, by one run or as the mean of several, as columns of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gmu_lightning.decisions import Task, decided, probabilities_of

if TYPE_CHECKING:
    from pandas import DataFrame

NOT_FINITE = "the model gives it no finite numbers"
FAULTY = "%d of %d rows have a problem, which the column `problem` describes"  # rows with a problem, all rows


@dataclass(frozen=True)
class Form:
    """The names, threshold and bias that all predictions of one call share.

    Attributes:
        genres, modalities: names of the axes C and M.
        threshold: of the probabilities, one or one per genre; a multiclass task ignores it.
        task: of the runs.
        several: whether several runs are averaged.
        bias: (C,) of the head, if contributions are exact; else None.
    """

    genres: tuple[str, ...]
    modalities: tuple[str, ...]
    threshold: float | list[float]
    task: Task
    several: bool
    bias: np.ndarray | None

    def about(self) -> dict[str, Any]:
        """Return the metadata of a file: `genres`, `modalities`, `task`, `threshold` and `bias` {genre: float}.

        There is no threshold for `multiclass`, and no bias without exact contributions.
        """
        bias = None if self.bias is None else dict(zip(self.genres, self.bias.tolist(), strict=True))
        names = {"genres": list(self.genres), "modalities": list(self.modalities)}
        threshold = None if self.task == "multiclass" else self.threshold
        return {**names, "task": self.task, "threshold": threshold, "bias": bias}


@dataclass(frozen=True)
class Results:
    """The predictions of N rows.

    Attributes:
        form: common to all rows.
        ids: of the rows.
        present: (N, M) bool, whether a modality was used.
        problems: why a row was not read in full, or None.
        predicted: (N,) bool. The numbers of other rows are NaN.
        logits: (N, C) float64; the mean of several runs, as are the following.
        probabilities: (N, C).
        spread: (N, C), the standard deviation of the probabilities over runs (ddof 1); None for one run.
        contributions: (N, M, C), with bias + their sum over M = logit; None if they are not exact.
        reasons: of each row, None for a row that was not predicted; () if none were requested.
    """

    form: Form
    ids: Sequence[str]
    present: np.ndarray
    problems: Sequence[str | None]
    predicted: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    spread: np.ndarray | None
    contributions: np.ndarray | None
    reasons: Sequence[Any] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def mean(
        cls,
        form: Form,
        ids: Sequence[str],
        present: np.ndarray,
        problems: Sequence[str | None],
        logits: Sequence[np.ndarray],
        contributions: Sequence[np.ndarray | None],
    ) -> Results:
        """Return the mean of R runs over their probabilities, logits and contributions.

        Args:
            form: with the order of genres and modalities.
            ids, present, problems: of the N rows.
            logits: R times (N, C). A row that was not predicted is NaN.
            contributions: R times (N, M, C), or None for a run without exact ones.
        """
        every = np.stack([probabilities_of(of_run, form.task) for of_run in logits])
        parts = [part for part in contributions if part is not None]
        mean = np.mean(logits, axis=0)
        predicted = np.isfinite(mean).all(axis=1)
        lost = present.any(axis=1) & ~predicted
        return cls(
            form,
            ids,
            present,
            [_joined(problem, NOT_FINITE if bad else None) for problem, bad in zip(problems, lost, strict=True)],
            predicted,
            _blanked(mean, predicted),
            _blanked(every.mean(axis=0), predicted),
            _blanked(every.std(axis=0, ddof=1), predicted) if form.several else None,
            _blanked(np.mean(parts, axis=0), predicted) if len(parts) == len(logits) else None,
        )

    @property
    def genres(self) -> list[list[str] | None]:
        """The predicted genres of each row, None for a row that was not predicted."""
        with np.errstate(invalid="ignore"):
            chosen = decided(self.probabilities, self.form.task, self.form.threshold)
        names = np.array(self.form.genres, dtype=object)
        return [names[yes].tolist() if known else None for yes, known in zip(chosen, self.predicted, strict=True)]

    def columns(self) -> dict[str, Any]:
        """Return {column: its N values}.

        The columns are `id`, `present/M`, `prob/G`, for several runs `prob_sd/G`, `logit/G`, if exact `contribution/M/G`, and
        `genres` and `problem`, for each modality M and genre G.
        """
        form = self.form
        columns: dict[str, Any] = {"id": list(self.ids)}
        columns |= {f"present/{m}": self.present[:, i] for i, m in enumerate(form.modalities)}
        for word, values in (("prob", self.probabilities), ("prob_sd", self.spread), ("logit", self.logits)):
            if values is not None:
                columns |= {f"{word}/{g}": values[:, c] for c, g in enumerate(form.genres)}
        if self.contributions is not None:
            for i, m in enumerate(form.modalities):
                columns |= {f"contribution/{m}/{g}": self.contributions[:, i, c] for c, g in enumerate(form.genres)}
        return {**columns, "genres": self.genres, "problem": list(self.problems)}

    def frame(self) -> DataFrame:
        """Return the columns as a DataFrame, with NaN for numbers of rows that were not predicted."""
        import pandas as pd

        columns = self.columns()
        texts = {name: pd.Series(columns.pop(name), dtype=object) for name in ("genres", "problem")}
        return pd.DataFrame({**columns, **texts})

    def table(self) -> Any:
        """Return the columns as a pyarrow Table, with null for numbers of rows that were not predicted."""
        import pyarrow as pa

        columns = self.columns()
        kinds = {"id": pa.string(), "genres": pa.list_(pa.string()), "problem": pa.string()}
        arrays = {name: pa.array(values, type=kinds.get(name), from_pandas=True) for name, values in columns.items()}
        return pa.table(arrays)


def _joined(*problems: str | None) -> str | None:
    return "; ".join(problem for problem in problems if problem) or None


def _blanked(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return values (N, ...) with NaN in the rows that are not known (N,)."""
    return np.where(known.reshape(-1, *[1] * (values.ndim - 1)), values, np.nan)
