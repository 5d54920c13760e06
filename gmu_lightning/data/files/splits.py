"""Assign records to train, val and test: by a column, or drawn by shares, stratified by labels and by whole groups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gmu_lightning.data.readers.tables import RecordTable
from gmu_lightning.movie import SPLITS, UserError

NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
SHARES = re.compile(r"(0?\.\d+|0|1)/(0?\.\d+|0|1)/(0?\.\d+|0|1)", re.ASCII)
DEFAULT = "0.7/0.1/0.2"
FORM = "shares of train, val and test that add up to 1, such as 0.7/0.1/0.2, or column"


def by_column(table: RecordTable, column: str, rows: Sequence[int]) -> dict[int, str | None]:
    """Return {row: its split}, None where the cell is empty.

    Args:
        table: as read.
        column: name of the column of splits.
        rows: to assign.

    Raises:
        UserError: a cell names no split, or a split has no row.
    """
    cells = table.columns[column]
    found: dict[int, str | None] = {}
    for n in rows:
        text = "" if cells[n] is None else str(cells[n]).strip().lower()
        if text and text not in NAMES:
            raise UserError(
                f"{table.path}: {table.place(n)} has {column}={text[:40]}, expected train, val (or dev) or test: name the splits "
                f"so, or draw them, as in data.split={DEFAULT}"
            )
        found[n] = NAMES.get(text)
    lacking = [split for split in SPLITS if split not in found.values()]
    if lacking:
        raise UserError(
            f"{table.path}: column {column} has no row of {' and '.join(lacking)}: mark some rows so, or draw the splits, as in "
            f"data.split={DEFAULT}"
        )
    return found


def shares_of(text: str) -> tuple[float, float, float]:
    """Return the shares of train, val and test in a text such as `0.7/0.1/0.2`. Raises UserError."""
    match = SHARES.fullmatch(text.strip())
    shares = tuple(map(float, match.groups())) if match else ()
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"data.split={text} is no split: give {FORM}")
    return shares


def drawn(labels: Mapping[int, Sequence[str]], groups: Mapping[int, Any], shares: Sequence[float], seed: int) -> dict[int, str]:
    """Draw the split of each record by iterative stratification (Sechidis et al. 2011, section 3.2), with whole groups.

    The rarest label is served first. Each record with it goes to the split that lacks most of that label, or, of equal splits, to
    the one that lacks most records. A group counts as one record with all of its labels.

    Args:
        labels: {row: its labels}.
        groups: {row: its group}; a row that is missing, or has None, is a group of its own.
        shares: of train, val and test; they add up to 1.
        seed: of the draw.

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
    counts: list[dict[int, int]] = []
    having: list[list[int]] = [[] for _ in names]
    for u in range(len(members)):
        count: dict[int, int] = {}
        for n in members[u]:
            for label in labels[n]:
                count[names[label]] = count.get(names[label], 0) + 1
        counts.append(count)
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
        best = [split for split, rank in enumerate(ranks) if rank == max(ranks)]
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
