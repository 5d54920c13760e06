"""A part of a data set, drawn once and for all by a seed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from gmu_lightning.data.audit import Audit
from gmu_lightning.movie import SPLITS, Movie, UserError

FORM = re.compile(r"([1-9]\d*)(?:/([1-9]\d*)/([1-9]\d*))?", re.ASCII)


def draw(limit: int | str | None, ids: Mapping[str, Sequence[str]], seed: int) -> dict[str, list[str]]:
    """At most so many ids of each split, in the split's own order; a smaller draw is part of every larger one.

    Args:
        limit: None, movies per split (`100`), or movies of train, val and test (`400/100/100`).
        ids: per split; what is drawn from one depends on no other.

    Raises:
        UserError: `limit` has another form.
    """
    if limit is None:
        return {split: list(ids[split]) for split in ids}
    numbers = parse_limit(limit)
    return {split: _drawn(ids[split], numbers[split], (seed, SPLITS.index(split))) for split in ids}


def limited(limit: int | str | None, movies: dict[str, list[Movie]], seed: int, audit: Audit) -> dict[str, list[Movie]]:
    """Return the movies that `draw` leaves; the audit forgets the others, unless they were removed. Raises UserError."""
    if limit is None:
        return movies
    ids = {split: set(kept) for split, kept in draw(limit, {s: [m.id for m in movies[s]] for s in SPLITS}, seed).items()}
    audit.problems = [p for p in audit.problems if p.action == "removed" or p.id in ids[p.split]]
    return {split: [movie for movie in movies[split] if movie.id in ids[split]] for split in SPLITS}


def parse_limit(limit: int | str) -> dict[str, int]:
    """`100` or `400/100/100` -> movies per split. Raises UserError."""
    parts = FORM.fullmatch(str(limit).strip())
    if parts is None:
        raise UserError(f"data.limit={limit} is no number of movies: give one for every split, as 100, or three, as 400/100/100.")
    train, val, test = parts.groups()
    return dict(zip(SPLITS, map(int, (train, val or train, test or train)), strict=True))


def _drawn(ids: Sequence[str], number: int, seed: tuple[int, int]) -> list[str]:
    chosen = np.sort(np.random.default_rng(seed).permutation(len(ids))[:number])
    return [ids[n] for n in chosen]
