"""Draw splits, shares of train and missing modalities. Every draw has a seed of its own, and the run's seed changes none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from gmu_lightning.movie import MODALITIES, SPLITS, UserError

SHARE = 3  # number of the draw of `share_of_train` under a seed; 0, 1 and 2 are those of `selection.draw`


def drawn(
    labels: Mapping[int, Sequence[str]], groups: Mapping[int, Any], shares: Sequence[float], seed: int, exact: bool = False
) -> dict[int, str]:
    """Draw the split of each record by iterative stratification (Sechidis et al. 2011, section 3.2), with whole groups.

    The rarest label is served first. Each record with it goes to the split that lacks most of that label, or, of equal splits, to
    the one that lacks most records. A group counts as one record with all of its labels.

    Args:
        labels: {row: its labels}.
        groups: {row: its group}; a row that is missing, or has None, is a group of its own.
        shares: of train, val and test; they add up to 1.
        seed: of the draw.
        exact: whether a split takes no more records than its share. Groups must have a single member then.

    Returns:
        {row: split}.
    """
    random = np.random.default_rng(seed)
    units: dict[Any, list[int]] = {}
    for n in labels:
        group = groups.get(n)
        units.setdefault(("row", n) if group is None else ("group", group), []).append(n)
    members = list(units.values())
    order = random.permutation(len(members)).tolist()
    names = {name: c for c, name in enumerate(dict.fromkeys(label for n in labels for label in labels[n]))}
    having: list[list[int]] = [[] for _ in names]
    counts = [Counter(names[label] for n in rows for label in labels[n]) for rows in members]
    for u in order:
        for c in counts[u]:
            having[c].append(u)
    left = [sum(counts[u][c] for u in rows) for c, rows in enumerate(having)]
    wanted = [[share * count for share in shares] for count in left]  # (C, 3), what each split still needs of a label
    room = [share * len(labels) for share in shares]  # records that each split still needs
    found: dict[int, str] = {}
    done = [False] * len(members)

    def put(u: int, needed: Sequence[float]) -> None:
        ranks = [(round(need, 9), round(free, 9)) for need, free in zip(needed, room, strict=True)]
        unfilled = [split for split in range(len(SPLITS)) if not exact or round(room[split]) >= 1]
        highest = max(ranks[split] for split in unfilled)
        best = [split for split in unfilled if ranks[split] == highest]
        split = best[0] if len(best) == 1 else best[int(random.integers(len(best)))]
        done[u] = True
        room[split] -= len(members[u])
        for label, count in counts[u].items():
            wanted[label][split] -= count
            left[label] -= count
        found.update(dict.fromkeys(members[u], SPLITS[split]))

    while any(left):
        c = min((count, c) for c, count in enumerate(left) if count)[1]
        for u in having[c]:
            if not done[u]:
                put(u, wanted[c])
    for u in order:
        if not done[u]:
            put(u, room)
    return found


def redrawn(genres: Sequence[Sequence[str]], splits: np.ndarray, seed: int) -> np.ndarray:
    """Return new splits of N movies, (N,) str, of the same sizes, drawn from all movies and stratified by genres.

    Args:
        genres: of each movie.
        splits: (N,) str, the split of each movie in the data's files.
        seed: of the draw.
    """
    shares = [float(np.mean(splits == split)) for split in SPLITS]
    found = drawn(dict(enumerate(genres)), {}, shares, seed, exact=True)
    return np.array([found[n] for n in range(len(splits))], dtype=splits.dtype)


def share_of_train(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return which of the n movies of train belong to a share of it, (n,) bool.

    The seed gives one order of the movies, and a share takes the first of them. So a smaller share is part of every larger one.
    The order begins with a movie of every genre, the rarest genre first.

    Args:
        labels: (n, C) bool, of train.
        share: above 0 and up to 1.
        seed: of the order.

    Raises:
        UserError: a genre that train has would lose its last movie.
    """
    order = np.random.default_rng((seed, SHARE)).permutation(len(labels))
    first: list[int] = []
    for genre in np.argsort(labels.sum(axis=0), kind="stable"):
        having = order[labels[order, genre]]
        if len(having) and not labels[first, genre].any():
            first.append(int(having[0]))
    order = np.concatenate([np.array(first, dtype=int), order[~np.isin(order, first)]])
    count = rounded(share, len(labels))
    if count < len(first):
        least = math.ceil(1000 * len(first) / len(labels)) / 1000
        raise UserError(
            f"data.train_share={share:g} keeps {count} of the {len(labels)} movies of train, too few for a movie of every genre: "
            f"give {least:g} or more"
        )
    return np.isin(np.arange(len(labels)), order[:count])


def rounded(share: float, total: int) -> int:
    """Return a share of a number, rounded to the nearest whole number. Halves are rounded down, so that two halves fit in."""
    return math.ceil(round(share * total, 9) - 0.5)


@dataclass(frozen=True)
class Missing:
    """The modalities that movies lose, as `data.missing` describes it. It is false if none is lost.

    A rate is a share of the movies of a split that have the modality. Counts are rounded. A movie keeps at least one
    modality, and a modality at least one movie of each split. The run's seed has no influence.

    Attributes:
        rates: {modality: rate above 0 and below 1}.
        splits: names of the splits whose movies lose modalities.
        seed: of the draw.
    """

    rates: Mapping[str, float]
    splits: tuple[str, ...] = SPLITS
    seed: int = 0

    @classmethod
    def of(cls, node: Mapping[str, Any] | None) -> Self:
        """Return the description in a configuration node; {} and None have no rates."""
        node = node or {}
        rates = {m: float(node[m]) for m in MODALITIES if node.get(m)}
        return cls(rates, tuple(node.get("splits", SPLITS)), int(node.get("seed", 0)))

    def __bool__(self) -> bool:
        return bool(self.rates)

    def lost(self, has: Mapping[str, np.ndarray], splits: np.ndarray) -> dict[str, np.ndarray]:
        """Return {modality: (N,) bool, whether a movie loses it}, for each modality with a rate.

        The seed draws for each movie one modality to keep, and for each modality an order of the movies that keep another one.
        The first movies of that order lose the modality. So a smaller rate takes some of the movies that a larger one takes. If a
        rate needs more movies than keep another modality, some movies change the one that they keep: those that would lose the
        new one last.

        Args:
            has: {modality of the run: (N,) bool, whether a movie has it}.
            splits: (N,) str, the split of each movie.
        """
        names = [m for m in MODALITIES if m in has]
        there = np.stack([has[m] for m in names], axis=1)  # (N, M)
        numbers = [MODALITIES.index(m) for m in names]
        places = np.stack([np.random.default_rng((self.seed, n)).permutation(len(splits)) for n in numbers], axis=1)
        liking = np.random.default_rng((self.seed, len(MODALITIES))).random((len(splits), len(MODALITIES)))[:, numbers]
        keeps = np.where(there, liking, -1.0).argmax(axis=1)
        lost = np.zeros_like(there)
        for rows in (np.flatnonzero(splits == split) for split in self.splits):
            totals = there[rows].sum(axis=0).tolist()
            counts = [min(rounded(self.rates.get(m, 0.0), n), max(n - 1, 0)) for m, n in zip(names, totals, strict=True)]
            kept = _with_room(keeps[rows], there[rows], counts, places[rows])
            for i, count in enumerate(counts):
                may_lose = rows[there[rows, i] & (kept != i)]
                lost[may_lose[np.argsort(places[may_lose, i])][:count], i] = True
        return {m: lost[:, i] for i, m in enumerate(names) if m in self.rates}

    def shortfalls(self, lost: Mapping[str, np.ndarray], has: Mapping[str, np.ndarray], splits: np.ndarray) -> list[str]:
        """Return a sentence for each split and modality in which fewer movies lose it than its rate says, rounding aside."""
        found = []
        for split in self.splits:
            for modality, gone in lost.items():
                total, count = int(has[modality][splits == split].sum()), int(gone[splits == split].sum())
                if count < math.floor(round(self.rates[modality] * total, 9)):
                    found.append(
                        f"missing_rates: {count} of {total} movies of {split} lose {modality} in place of "
                        f"{rounded(self.rates[modality], total)}, because no movie loses all of its modalities"
                    )
        return found


def _with_room(keeps: np.ndarray, there: np.ndarray, counts: Sequence[int], places: np.ndarray) -> np.ndarray:
    """Return the modality that each of n movies keeps, so that enough movies may lose each modality.

    Where too few movies have several modalities, fewer may lose one.

    Args:
        keeps: (n,) int, the modality that each movie keeps as drawn.
        there: (n, M) bool, the modalities that it has.
        counts: how many movies lose each modality.
        places: (n, M) int, the place of each movie in a modality's order.
    """
    kept = keeps.copy()

    def room(i: int) -> int:
        return int((there[:, i] & (kept != i)).sum()) - counts[i]

    for i in range(len(counts)):
        for other in sorted((o for o in range(len(counts)) if o != i), key=room, reverse=True):
            changes = min(-room(i), room(other))
            if changes > 0:
                may_change = np.flatnonzero((kept == i) & there[:, other])
                kept[may_change[np.argsort(-places[may_change, other])][:changes]] = other
    return kept
