"""What was wrong with a data set: every problem met while reading it, by name, with what was done about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gmu_lightning.files import sound
from gmu_lightning.movie import UserError

KINDS = {
    "unreadable_image": "an unreadable poster",
    "truncated_image": "a truncated poster",
    "missing_image": "no poster",
    "oversize_image": "a poster too large to decode",
    "missing_plot": "no plot",
    "broken_json": "a broken record",
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
NAMED = 3  # ids in a line of the summary; audit.json has all of them


@dataclass(frozen=True)
class Problem:
    """One movie, one thing that was wrong with it.

    Attributes:
        file: where it was found, relative to the data's root, with `:line` where there are lines.
        split: train, val or test.
        kind: a key of `KINDS`.
        action: a key of `ACTIONS`; `kept_absent` keeps the movie and marks the modality absent.
        detail: what exactly was wrong.
        by_policy: follows from a label policy the user chose, so it is no fault of the data.
        modality: of the content at fault, where the reader names it; audit.json leaves it out.
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
    """The problems of one reading of a data set, in the order they were met."""

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
        """Record a problem; ValueError for a kind or an action outside the closed lists."""
        self.problems.append(Problem(sound(id), sound(file), split, kind, action, sound(detail), by_policy, modality))

    @property
    def counts(self) -> dict[str, int]:
        """Problems of each kind that occurred, in the order of `KINDS`."""
        found = Counter(problem.kind for problem in self.problems)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def as_dict(self, layout: str, movies: Mapping[str, int], genres: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """What audit.json holds.

        Args:
            layout: the data's layout on disk (`raw`, `hdf5`, `jsonl`, ...).
            movies: kept movies per split.
            genres: per split, kept movies that have each genre.
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
        """A line for each thing that happened, such as `3 movies kept without it: no poster (0085407, 0085811, ...)`."""
        groups: dict[tuple[str, str], list[str]] = {}
        for problem in self.problems:
            groups.setdefault((problem.action, problem.kind), []).append(problem.id)
        return [
            f"{len(ids)} {'movie' if len(ids) == 1 else 'movies'} {ACTIONS[action]}: {KINDS[kind]} "
            f"({', '.join(ids[:NAMED])}{', ...' if len(ids) > NAMED else ''})"
            for (action, kind), ids in groups.items()
        ]

    def raise_if_strict(self) -> None:
        """For `data.strict=true`: UserError if anything was wrong with the data, label policies aside."""
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
    """What the audit calls a movie's lack of a modality."""
    return "missing_plot" if modality == "text" else f"missing_{modality}"


def kind_of_unreadable(modality: str) -> str:
    """Return the audit's word for a file of a modality that the system refuses to read."""
    return "unreadable_image" if modality == "image" else "bad_array"
