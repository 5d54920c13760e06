"""Choose the movies and genres of a task: limits of movies, label policies, and the order of the genres."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from gmu_lightning.data.audit import Audit, kind_of_missing, without_genre
from gmu_lightning.data.readers.strings import spelling
from gmu_lightning.movie import SPLITS, GenreVocabulary, Movie, UserError

LIMIT = re.compile(r"([1-9]\d*)(?:/([1-9]\d*)/([1-9]\d*))?", re.ASCII)
RARE = ("News", "Adult", "Reality-TV", "Talk-Show")
_RARE = {spelling(genre) for genre in RARE}

Splits = dict[str, list[Movie]]
RecordFile = Callable[[str, str], str]
Policy = Callable[[Mapping[str, Sequence[Movie]], Audit], Splits]  # removed movies and genres are in the audit with `by_policy`


def keep23(movies: Mapping[str, Sequence[Movie]], audit: Audit) -> Splits:
    """Keep all movies, and remove the genres in `RARE` from them (Arevalo et al. 2017, arXiv 1702.01992, section 4.1)."""

    def without_rare(movie: Movie, split: str) -> Movie:
        rare = [genre for genre in movie.genres if spelling(genre) in _RARE]
        if not rare:
            return movie
        audit.add(movie.id, "", split, "dropped_genre", "kept", f"label_policy keep23 ignores {', '.join(rare)}", by_policy=True)
        return replace(movie, genres=tuple(genre for genre in movie.genres if genre not in rare))

    return {split: [without_rare(movie, split) for movie in movies[split]] for split in movies}


def mmbt(movies: Mapping[str, Sequence[Movie]], audit: Audit) -> Splits:
    """Remove movies with the genre News, with a genre that train lacks, or without a plot.

    This is the policy of Kiela et al. (2019, arXiv 1909.02950): github.com/facebookresearch/mmbt, scripts/mmimdb.py, lines 32-42.
    """
    in_train = {genre for movie in movies["train"] if not _is_news(movie) for genre in movie.genres}

    def kept(movie: Movie, split: str) -> bool:
        kind = "dropped_genre"
        if _is_news(movie):
            why = "label_policy mmbt leaves out News"
        elif unseen := [genre for genre in movie.genres if genre not in in_train]:
            why = f"label_policy mmbt leaves out labels unseen in train: {', '.join(unseen)}"
        elif "text" not in movie.content:
            kind, why = "missing_plot", "label_policy mmbt leaves out movies without a plot"
        else:
            return True
        audit.problems = [p for p in audit.problems if (p.id, p.split, p.action) != (movie.id, split, "kept_absent")]
        audit.add(movie.id, "", split, kind, "removed", why, by_policy=True)
        return False

    return {split: [movie for movie in movies[split] if kept(movie, split)] for split in movies}


def _is_news(movie: Movie) -> bool:
    return any(spelling(genre) == "news" for genre in movie.genres)


POLICIES: dict[str, Policy] = {"keep23": keep23, "mmbt": mmbt}


def order_genres(
    genres: Mapping[str, Iterable[Sequence[str]]], published: Sequence[str] | None = None
) -> tuple[GenreVocabulary, tuple[str, ...]]:
    """Return the genres of the task, and the genres of val and test that train lacks, in alphabetical order.

    The task has the genres of train. Their order is the published one if they are exactly the published genres. Otherwise the
    most frequent in train come first, and equally frequent ones are in alphabetical order.

    Args:
        genres: {split: genres of each movie}.
        published: the published list of the data set, if there is one.
    """
    frequency = Counter(chain.from_iterable(genres["train"]))
    names = sorted(frequency, key=lambda genre: (-frequency[genre], genre))
    if published is not None and set(published) == set(names):
        names = list(published)
    elsewhere = chain.from_iterable(chain.from_iterable(movies) for split, movies in genres.items() if split != "train")
    return GenreVocabulary(tuple(names)), tuple(sorted(set(elsewhere) - set(names)))


def complete(movies: list[Movie], modalities: Sequence[str], split: str, audit: Audit) -> list[Movie]:
    """Return the movies of a split that have all chosen modalities; the audit names the others as removed, `by_policy`.

    Problems with which these others were kept leave the audit.
    """
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


def check_single_labels(movies: Splits, root: str | None, record_file: RecordFile) -> None:
    """Check that no movie has several labels, and that train has at least two. Raises UserError, which names the first movie.

    Args:
        movies: of each split.
        root: of the data set.
        record_file: returns the file of a movie's record, by id and split.
    """
    several = [(movie, split) for split in SPLITS for movie in movies[split] if len(set(movie.genres)) > 1]
    if several:
        movie, split = several[0]
        others = f" and {len(several) - 1} more have" if len(several) > 1 else " has"
        raise UserError(
            f"{root or 'the data'}: movie {movie.id} ({record_file(movie.id, split)}){others} several labels, here "
            f"{', '.join(movie.genres[:5])}, and data.task=multiclass takes one: correct the labels, or set data.task=multilabel"
        )
    labels = {genre for movie in movies["train"] for genre in movie.genres}
    if len(labels) < 2:
        raise UserError(
            f"{root or 'the data'}: every movie of train has the label {', '.join(labels)}, and data.task=multiclass chooses "
            "between labels: give movies of at least two"
        )


def scorable(labels: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """Return the movies that a single-label task can train or score, (N,) bool: those with a label.

    A split in which no movie has a label keeps all its movies, because it is predicted and not scored.

    Args:
        labels: (N, C) bool.
        splits: (N,) str.
    """
    has = labels.any(axis=1)
    return has | ~np.isin(splits, np.unique(splits[has]))


def leave_out(movies: Sequence[tuple[Movie, str]], audit: Audit, record_file: RecordFile) -> Audit:
    """Return an audit that names movies without a label as removed. Problems with which they were kept leave it.

    Args:
        movies: each with its split.
        audit: stays as it is.
        record_file: returns the file of a movie's record, by id and split.
    """
    ids = {movie.id for movie, _ in movies}
    theirs = [problem for problem in audit.problems if problem.id in ids]
    noted = {problem.id: problem for problem in theirs if problem.kind == "no_genre"}
    by_policy = {problem.id for problem in theirs if problem.by_policy}
    found = Audit([problem for problem in audit.problems if problem.id not in ids or problem.action == "removed"])
    for movie, split in movies:
        if movie.id in noted:
            found.problems.append(replace(noted[movie.id], action="removed"))
        else:
            file, why = record_file(movie.id, split), without_genre(movie)
            found.add(movie.id, file, split, "no_genre", "removed", why, by_policy=movie.id in by_policy)
    return found


def limited(limit: int | str | None, movies: Splits, seed: int, audit: Audit) -> Splits:
    """Return the movies that `draw` keeps; the audit omits the others, unless they were removed. None keeps all.

    Raises UserError if `limit` has another form.
    """
    if limit is None:
        return movies
    ids = {split: set(kept) for split, kept in draw(limit, {s: [m.id for m in movies[s]] for s in SPLITS}, seed).items()}
    audit.problems = [p for p in audit.problems if p.action == "removed" or p.id in ids[p.split]]
    return {split: [movie for movie in movies[split] if movie.id in ids[split]] for split in SPLITS}


def draw(limit: int | str, ids: Mapping[str, Sequence[str]], seed: int) -> dict[str, list[str]]:
    """Draw ids from each split, independently of the other splits. A smaller draw is part of every larger one.

    A split with fewer ids than its limit keeps all.

    Args:
        limit: largest number of movies per split (`100`), or those of train, val and test (`400/100/100`).
        ids: {split: all of its ids}.
        seed: of the draw.

    Returns:
        {split: drawn ids, in the split's own order}.

    Raises:
        UserError: `limit` has another form.
    """
    parts = LIMIT.fullmatch(str(limit).strip())
    if parts is None:
        raise UserError(f"data.limit={limit} is no number of movies: give one for every split, as 100, or three, as 400/100/100.")
    drawn = {}
    for n, split in enumerate(SPLITS):
        order = np.random.default_rng((seed, n)).permutation(len(ids[split]))
        drawn[split] = [ids[split][place] for place in np.sort(order[: int(parts[n + 1] or parts[1])])]
    return drawn
