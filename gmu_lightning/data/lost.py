"""Sentences about lost data: the reason in an error where all is lost, a warning where more than a tenth is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from gmu_lightning.data.audit import Problem, kind_of_missing

SHARE = 10  # a warning is due once more than one movie in so many is gone
PARTICULARS = re.compile(r"\(.*?\)|'[^']*'|\"[^\"]*\"|: .*|; .*|\d+")  # of one movie, in a detail that many share


def reason(problems: Sequence[Problem]) -> str:
    """Return the most frequent reason, with the first movie that it holds for and its file; "" without a problem."""
    alike: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        shared = " ".join(PARTICULARS.sub("", problem.detail).split())
        alike.setdefault((problem.kind, shared), []).append(problem)
    if not alike:
        return ""
    most = max(alike.values(), key=len)
    first = most[0]
    where = f"{first.file}, movie {first.id}" if first.id != first.file else first.file
    return f" ({len(most)} of {len(problems)} as in {where}: {first.detail or first.kind})"


def of_modality(problems: Iterable[Problem], modality: str, split: str) -> list[Problem]:
    """Return the problems for which movies of a split lack a modality."""
    kind = kind_of_missing(modality)
    return [p for p in problems if p.split == split and (p.modality == modality or p.kind == kind) and p.action != "kept"]


def nothing_left(root: str | None, split: str, removed: Sequence[Problem]) -> str:
    """Return the sentence for a split without a movie."""
    if not removed:
        return f"{root}: {split} lists no movie: expected at least one in each of train, val and test."
    return (
        f"{root}: no movie is left in {split}, for all were removed{reason(removed)}: "
        "mend what audit.json names, or check the split file, data.limit and data.absent."
    )


def no_genre(root: str | None, problems: Sequence[Problem]) -> str:
    """Return the sentence for a train split without a label."""
    found = [problem for problem in problems if problem.split == "train" and problem.kind in ("no_genre", "dropped_genre")]
    return f"{root}: no movie of train has a genre, so there is nothing to learn{reason(found)}: check its labels and data.limit."


def nobody_has(root: str | None, modality: str, split: str, problems: Iterable[Problem]) -> str:
    """Return the sentence for a modality that no movie of a split has."""
    why = reason(of_modality(problems, modality, split))
    return (
        f"data.root={root}: no movie of {split} has its {modality}{why}: mend what audit.json names, or choose other modalities."
    )


def many_removed(split: str, listed: int, removed: Sequence[Problem]) -> str | None:
    """Return the warning of a split that lost more than a tenth of its movies; None where it did not.

    Args:
        listed: movies that the data set names in the split.
        removed: one problem for each movie that is left out; label policies and `data.absent` do not count.
    """
    lost = [problem for problem in removed if not problem.by_policy]
    if SHARE * len(lost) <= listed:
        return None
    return f"lost_movies: {len(lost)} of {listed} movies of {split} are left out{reason(lost)}, and audit.json names them"


def many_without(modality: str, split: str, movies: int, without: int, problems: Iterable[Problem]) -> str | None:
    """Return the warning of a split in which more than a tenth of the movies lack a modality; None where fewer do."""
    found = of_modality(problems, modality, split)
    missing = without - len({problem.id for problem in found if problem.by_policy})
    if SHARE * missing <= movies:
        return None
    why = reason([problem for problem in found if not problem.by_policy])
    return f"missing_{modality}: {missing} of {movies} movies of {split} lack {modality}{why}, and audit.json names them"
