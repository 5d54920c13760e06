"""The audit of a data set: each problem that was found while reading it, and the action that was taken."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gmu_lightning.files import sound
from gmu_lightning.movie import Movie, UserError

KINDS = {
    "unreadable_image": "an unreadable poster",
    "truncated_image": "a truncated poster",
    "missing_image": "no poster",
    "oversize_image": "a poster too large to decode",
    "missing_plot": "no plot",
    "broken_json": "a broken record",
    "broken_row": "a row that cannot be read",
    "no_genre": "no genre of the task",
    "dropped_genre": "a genre that is not of the task",
    "duplicate_id": "an id that was there before",
    "shared_plot": "the plot of another movie",
    "shared_image": "the poster of another movie",
    "bad_array": "a damaged array",
    "refused_pickle": "a pickle that holds more than arrays",
    "bad_cell": "a cell that does not fit its column",
    "missing_video": "no video",
    "missing_audio": "no audio",
    "missing_metadata": "no metadata",
    "replaced_text": "text that UTF-8 cannot hold",
}
ACTIONS = {"kept": "kept", "kept_absent": "kept without it", "removed": "removed"}
NAMED = 3  # number of ids in a line of the summary
SHARE = 10  # more than one movie in ten is many
PARTICULARS = re.compile(r"\(.*?\)|'[^']*'|\"[^\"]*\"|: .*|; .*|\d+")  # parts of a detail that differ from movie to movie


@dataclass(frozen=True)
class Problem:
    """One problem of one movie.

    Attributes:
        id: of the movie.
        file: relative to the data's root, followed by `:line` in a file of lines.
        split: train, val or test.
        kind: a key of `KINDS`.
        action: a key of `ACTIONS`. With `kept_absent` the movie is kept without the modality.
        detail: describes the problem.
        by_policy: whether a choice of the user is the cause, such as a label policy, and the data are sound.
        modality: of the content at fault, if the reader names it. It is omitted from audit.json.
    """

    id: str
    file: str
    split: str
    kind: str
    action: str
    detail: str
    by_policy: bool = False
    modality: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} is none of {', '.join(KINDS)}")
        if self.action not in ACTIONS:
            raise ValueError(f"action={self.action!r} is none of {', '.join(ACTIONS)}")


@dataclass
class Audit:
    """The problems of one reading of a data set, in the order in which they were found."""

    problems: list[Problem] = field(default_factory=list)

    def add(
        self,
        id: str,
        file: str,
        split: str,
        kind: str,
        action: str,
        detail: str = "",
        *,
        by_policy: bool = False,
        modality: str = "",
    ) -> None:
        """Record a problem, given as the attributes of `Problem`. Raises ValueError for an unknown kind or action."""
        self.problems.append(Problem(sound(id), sound(file), split, kind, action, sound(detail), by_policy, modality))

    def copy(self) -> Audit:
        """Return a new audit of the same problems."""
        return Audit(list(self.problems))

    def removed(self, split: str) -> list[Problem]:
        """Return the problems for which movies of a split were left out."""
        return [problem for problem in self.problems if problem.split == split and problem.action == "removed"]

    @property
    def counts(self) -> dict[str, int]:
        """Number of problems of each kind that occurred, in the order of `KINDS`."""
        found = Counter(problem.kind for problem in self.problems)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def as_dict(self, layout: str, movies: Mapping[str, int], genres: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """Return the content of audit.json: `layout`, `movies`, `genres`, `problems` and `counts`.

        Args:
            layout: name of the data's layout, such as raw, hdf5 or jsonl.
            movies: {split: number of kept movies}.
            genres: {split: {genre: number of kept movies that have it}}.
        """
        columns = ("id", "file", "split", "kind", "action", "detail")
        return {
            "layout": layout,
            "movies": dict(movies),
            "genres": {split: dict(counts) for split, counts in genres.items()},
            "problems": [{column: getattr(problem, column) for column in columns} for problem in self.problems],
            "counts": self.counts,
        }

    def summary(self) -> list[str]:
        """Return a line per action and kind, such as `3 movies kept without it: no poster (0085407, 0085811, ...)`."""
        groups: dict[tuple[str, str], list[str]] = {}
        for problem in self.problems:
            groups.setdefault((problem.action, problem.kind), []).append(problem.id)
        return [
            f"{len(ids)} {'movie' if len(ids) == 1 else 'movies'} {ACTIONS[action]}: {KINDS[kind]} "
            f"({', '.join(ids[:NAMED])}{', ...' if len(ids) > NAMED else ''})"
            for (action, kind), ids in groups.items()
        ]

    def raise_if_strict(self) -> None:
        """Raise UserError if the data have a problem that is not `by_policy`, as `data.strict=true` requires."""
        faults = [problem for problem in self.problems if not problem.by_policy]
        if not faults:
            return
        found = ", ".join(f"{kind} {n}" for kind, n in Counter(problem.kind for problem in faults).items())
        first = faults[0]
        detail = first.detail or KINDS[first.kind]
        raise UserError(
            f"data.strict=true accepts no problem and the data has {len(faults)} ({found}), the first in "
            f"{first.file or first.split}, movie {first.id}: {detail}; mend it or set data.strict=false."
        )


def kind_of_missing(modality: str) -> str:
    """Return the kind of problem of a movie that lacks a modality."""
    return "missing_plot" if modality == "text" else f"missing_{modality}"


def columns_summary(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line per way of reading columns, such as `columns read as numbers: year, budget`."""
    ways: dict[str, list[str]] = {}
    for name, column in cells.items():
        known = column["why"] if column["words"] is None else f"{column['words']} word{'s' * (column['words'] != 1)}"
        ways.setdefault(column["read_as"], []).append(f"{name} ({known})" if known else name)
    return [f"columns {'' if way == 'left out' else 'read as '}{way}: {', '.join(names)}" for way, names in ways.items()]


def reason(problems: Sequence[Problem]) -> str:
    """Return the most frequent reason among problems, with its first movie and file; "" without problems."""
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
    """Return the problems that explain why movies of a split lack a modality."""
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


def without_genre(movie: Movie) -> str:
    """Return the detail of a movie without a genre of the task."""
    return f"its genres are {', '.join(movie.genres) or 'none'}"


def nobody_has(root: str | None, modality: str, split: str, problems: Iterable[Problem]) -> str:
    """Return the sentence for a modality that no movie of a split has."""
    why = reason(of_modality(problems, modality, split))
    return (
        f"data.root={root}: no movie of {split} has its {modality}{why}: mend what audit.json names, or choose other modalities."
    )


def many_removed(split: str, listed: int, removed: Sequence[Problem]) -> str | None:
    """Return the warning for a split that lost more than a tenth of its movies, else None.

    Args:
        split: its name.
        listed: number of movies of the split, removed ones included.
        removed: a problem for each removed movie. Those with `by_policy` are ignored.
    """
    lost = [problem for problem in removed if not problem.by_policy]
    if SHARE * len(lost) <= listed:
        return None
    return f"lost_movies: {len(lost)} of {listed} movies of {split} are left out{reason(lost)}, and audit.json names them"


def many_without(modality: str, split: str, movies: int, without: int, problems: Iterable[Problem]) -> str | None:
    """Return the warning for a split in which more than a tenth of the movies lack a modality, else None.

    Args:
        modality: its name.
        split: its name.
        movies: number of movies of the split.
        without: number of them that lack the modality. Those with `by_policy` are ignored.
        problems: of the data set.
    """
    found = of_modality(problems, modality, split)
    missing = without - len({problem.id for problem in found if problem.by_policy})
    if SHARE * missing <= movies:
        return None
    why = reason([problem for problem in found if not problem.by_policy])
    return f"missing_{modality}: {missing} of {movies} movies of {split} lack {modality}{why}, and audit.json names them"
