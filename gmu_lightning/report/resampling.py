"""Bootstrap and permutation of runs' scores: what stands beside the intervals and p that claims go by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gmu_lightning.report.inference import LEVEL, Difference, Scored

DRAWS = 9_999
AT_ONCE = 20_000_000  # numbers of a block of draws


class Resampled(NamedTuple):
    """What two resampling tests say of a difference."""

    low: float | None  # the middle 95 % of a bootstrap over movies and seeds; None of too few seeds to draw from
    high: float | None
    p_bootstrap: float | None  # of that bootstrap, the share beyond 0, doubled
    p_permutation: float  # of swapping the two settings movie by movie: of these runs alone, whatever other seeds would do


class Bootstrap:
    """Means of settings over the same draws of movies.

    It is hierarchical: each draw takes N movies and, of each setting, S seeds, with replacement. For tuned thresholds each draw
    also takes one draw of val.

    Args:
        settings: on the same N movies.
    """

    def __init__(self, settings: Sequence[Scored], seed: int = 0, draws: int = DRAWS):
        rng = np.random.default_rng(seed)
        runs = np.concatenate([one.influence for one in settings]).astype(np.float32)
        count = runs.shape[1]
        means = np.empty((draws, len(settings)))
        for block in _blocks(draws, count):
            weights = _multinomial(rng, count, block.stop - block.start)
            moved = (weights - 1) @ runs.T / count  # (draws of the block, R)
            column = 0
            for n, one in enumerate(settings):
                chosen = rng.integers(one.seeds, size=(len(moved), one.seeds))
                scores = one.scores + moved[:, column : column + one.seeds]
                if one.retuned is not None:  # all settings go by the same draw of val
                    scores += one.retuned.scores.T[np.arange(block.start, block.stop) % one.retuned.scores.shape[1]]
                means[block, n] = np.take_along_axis(scores, chosen, axis=1).mean(axis=1)
                column += one.seeds
        self._means = {id(one): means[:, n] for n, one in enumerate(settings)}
        self._settings = settings  # which keeps their ids theirs

    def interval(self, one: Scored) -> tuple[float, float]:
        """The middle 95 % of a setting's means."""
        return _middle(self._means[id(one)])

    def difference(self, pair: Difference) -> tuple[float, float, float]:
        """The middle 95 % of the difference between two settings, and p: the share beyond 0, doubled."""
        drawn = self._means[id(pair.a)] - self._means[id(pair.b)]
        tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
        return (*_middle(drawn), min(1.0, 2 * (tail + 1) / (len(drawn) + 1)))


def permuted(pairs: Sequence[Difference], seed: int = 0, draws: int = DRAWS) -> list[float]:
    """p of each pair, on the same movies all: of the movies' mean differences, whose signs are turned or not."""
    if not pairs:
        return []
    rng = np.random.default_rng(seed)
    differences = np.stack([p.mean + p.a.of_movies - p.b.of_movies for p in pairs], axis=1)
    count = len(differences)
    observed = np.abs(differences.mean(axis=0))
    beyond = np.zeros(len(pairs), dtype=int)
    for block in _blocks(draws, count):
        signs = (rng.integers(0, 2, size=(block.stop - block.start, count), dtype=np.int8) * 2 - 1).astype(np.float32)
        beyond += (np.abs(signs @ differences.astype(np.float32)) / count >= observed - 1e-9).sum(axis=0)
    return ((beyond + 1) / (draws + 1)).tolist()


def _blocks(draws: int, count: int) -> Iterator[slice]:
    size = max(1, AT_ONCE // count)
    return (slice(start, min(draws, start + size)) for start in range(0, draws, size))


def _middle(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _multinomial(rng: np.random.Generator, count: int, draws: int) -> np.ndarray:
    """How often each of `count` movies is drawn, `count` being drawn with replacement: (draws, count) float32."""
    chosen = rng.integers(count, size=(draws, count), dtype=np.int32) + np.arange(draws, dtype=np.int64)[:, None] * count
    return np.bincount(chosen.ravel(), minlength=draws * count).reshape(draws, count).astype(np.float32)


class Resampling:
    """Both, of settings that need not all be on the same movies."""

    def __init__(self, settings: Sequence[Scored], pairs: Sequence[Difference]):
        self._bootstraps: dict[int, Bootstrap] = {}
        self._p: dict[int, float] = {}
        for count in {_movies(one) for one in settings}:
            self._bootstraps[count] = Bootstrap([one for one in settings if _movies(one) == count])
            of_these = [pair for pair in pairs if _movies(pair.a) == count]
            self._p |= zip(map(id, of_these), permuted(of_these), strict=True)

    def interval(self, one: Scored) -> tuple[float, float] | tuple[None, None]:
        """Of a setting's mean; None where seeds or movies are too few to claim anything."""
        if one.between_seeds is None:
            return None, None
        return self._bootstraps[_movies(one)].interval(one)

    def of(self, pair: Difference) -> Resampled:
        """Of a difference."""
        if pair.parts is None:
            return Resampled(None, None, None, self._p[id(pair)])
        return Resampled(*self._bootstraps[_movies(pair.a)].difference(pair), self._p[id(pair)])


def _movies(one: Scored) -> int:
    return one.influence.shape[1]
