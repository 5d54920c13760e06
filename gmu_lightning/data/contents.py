"""Contents of movies before any preparation: their hashes, those that two movies share, and movies that lack one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from gmu_lightning.data.audit import Audit, kind_of_missing
from gmu_lightning.data.media import unreadable
from gmu_lightning.data.store import Store
from gmu_lightning.movie import Movie


def hashed(
    store: Store, contents: Sequence[Any], root: str, modality: str
) -> tuple[list[str | None], list[tuple[int, str, str]]]:
    """Return the SHA-256 of each content, None where it is absent, and (row, kind, detail) of what the system refuses to read."""
    found = store.digests(contents, root)
    refused = [(n, unreadable(modality, one)) for n, one in enumerate(found) if isinstance(one, OSError)]
    bad = [(n, problem.kind, problem.detail) for n, problem in refused]
    return [None if isinstance(one, OSError) else one for one in found], bad


def without(movie: Movie, modality: str) -> Movie:
    """Return the movie with that modality absent."""
    return replace(movie, content={m: content for m, content in movie.content.items() if m != modality})


def shared(digests: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    """Yield (row, first row with the same content) for each content that an earlier row has."""
    owners: defaultdict[str, list[int]] = defaultdict(list)
    for n, found in enumerate(digests):
        if found is not None:
            owners[found].append(n)
    yield from ((n, first) for first, *others in owners.values() for n in others)


def drop_incomplete(movies: list[Movie], modalities: Sequence[str], split: str, audit: Audit) -> list[Movie]:
    """Return the movies of a split that have every chosen modality; the audit names the others as removed, with the reason."""
    lacking = {movie.id: absent for movie in movies if (absent := [m for m in modalities if m not in movie.content])}
    why = {(p.id, p.kind): p for p in audit.problems if p.split == split and p.action == "kept_absent"}
    audit.problems = [p for p in audit.problems if p.id not in lacking or p.split != split or p.action == "removed"]
    for movie, absent in lacking.items():
        for modality in absent:
            kind = kind_of_missing(modality)
            known = why.get((movie, kind))
            file, detail = (known.file, f"data.absent=drop: {known.detail}") if known else ("", "data.absent=drop")
            audit.add(movie, file, split, kind, "removed", detail, by_policy=True)
    return [movie for movie in movies if movie.id not in lacking]
