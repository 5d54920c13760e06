"""How far the gates open for each genre, over the movies that truly have it."""

from __future__ import annotations

import numpy as np

from gmu_lightning.run import Predictions


def by_genre(predictions: Predictions) -> dict[str, np.ndarray]:
    """The columns of gates/by_genre.parquet: a row per genre and modality, C x M rows, a genre's modalities together.

    `movies` have the genre; over them `gate` and `gate_open` are means (of `gate/<m>`, `gate_open/<m>`), `gate_weighted` of
    `gate/<m>/<Genre>` and `contribution` of `contribution/<m>/<Genre>`; `gate_sd_across_movies` has ddof 1. What is not there
    (a genre without movies, the spread of one movie, a head without contributions) is masked, and null in the file.

    Raises:
        ValueError: the predictions hold no gates.
    """
    if predictions.gate is None:
        raise ValueError("these predictions hold no gates: only a gated fusion has them")
    labels, genres, modalities = predictions.labels, predictions.genres, predictions.modalities
    columns = {
        "gate": _mean(labels, predictions.gate),
        "gate_sd_across_movies": _sd(labels, predictions.gate),
        "gate_open": _mean(labels, predictions.gate_open),
        "gate_weighted": _mean(labels, predictions.gate_by_genre),
        "contribution": _mean(labels, predictions.contributions),
    }
    shape = (len(genres), len(modalities))
    nothing = np.ma.masked_all(shape)
    return {
        "genre": np.repeat(np.array(genres, dtype=object), len(modalities)),
        "modality": np.tile(np.array(modalities, dtype=object), len(genres)),
        "movies": np.repeat(labels.sum(axis=0), len(modalities)),
        **{name: (nothing if values is None else values).reshape(-1) for name, values in columns.items()},
    }


def _mean(labels: np.ndarray, values: np.ndarray | None) -> np.ma.MaskedArray | None:
    """Mean of (N, M) or (N, M, C) over each genre's movies, (C, M); masked where it has none."""
    if values is None:
        return None
    movies = labels.sum(axis=0)
    weight = labels / np.maximum(movies, 1)  # (N, C)
    mean = np.einsum("nc,nm->cm" if values.ndim == 2 else "nc,nmc->cm", weight, values)
    return np.ma.masked_array(mean, np.broadcast_to(movies[:, None] == 0, mean.shape))


def _sd(labels: np.ndarray, values: np.ndarray) -> np.ma.MaskedArray:
    """Standard deviation (ddof 1) of (N, M) over each genre's movies, (C, M); masked where it has fewer than two."""
    sds = np.full((labels.shape[1], values.shape[1]), np.nan)
    for c in np.flatnonzero(labels.sum(axis=0) > 1):
        sds[c] = values[np.flatnonzero(labels[:, c])].std(axis=0, ddof=1)
    return np.ma.masked_invalid(sds)
