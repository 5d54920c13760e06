"""Which genres are the task's: label policies, and the order of the genres."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.strings import spelling
from gmu_lightning.movie import GenreVocabulary, Movie, UserError

RARE = ("News", "Adult", "Reality-TV", "Talk-Show")
_RARE = {spelling(genre) for genre in RARE}

Splits = dict[str, list[Movie]]
Policy = Callable[[Mapping[str, Sequence[Movie]], Audit], Splits]  # what it takes away is in the audit, as the policy's doing


def keep23(movies: Mapping[str, Sequence[Movie]], audit: Audit) -> Splits:
    """Keep every movie and ignore MM-IMDb's four rarest labels (Arevalo et al. 2017, arXiv 1702.01992, section 4.1)."""

    def without_rare(movie: Movie, split: str) -> Movie:
        rare = [genre for genre in movie.genres if spelling(genre) in _RARE]
        if not rare:
            return movie
        audit.add(movie.id, "", split, "dropped_genre", "kept", f"label_policy keep23 ignores {', '.join(rare)}", by_policy=True)
        return replace(movie, genres=tuple(genre for genre in movie.genres if genre not in rare))

    return {split: [without_rare(movie, split) for movie in movies[split]] for split in movies}


def mmbt(movies: Mapping[str, Sequence[Movie]], audit: Audit) -> Splits:
    """Leave out movies labelled News, val and test movies with a label unseen in train, and movies without a plot.

    As the code of Kiela et al. (2019, arXiv 1909.02950) does: github.com/facebookresearch/mmbt, scripts/mmimdb.py, lines 32-42.
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
    """The genres of the task, and those of val and test that train never shows, alphabetically.

    The published order where train's genres are exactly the published ones; else by frequency in train, ties by alphabet.
    Labels of val and test have no say.

    Args:
        genres: per split, the genres of each movie.
        published: the data set's published list.

    Raises:
        UserError: no movie of train has a genre.
    """
    frequency = Counter(chain.from_iterable(genres["train"]))
    if not frequency:
        raise UserError("No movie of train has a genre, so there is nothing to learn: check its labels and data.limit.")
    names = sorted(frequency, key=lambda genre: (-frequency[genre], genre))
    if published is not None and set(published) == set(names):
        names = list(published)
    elsewhere = chain.from_iterable(chain.from_iterable(movies) for split, movies in genres.items() if split != "train")
    return GenreVocabulary(tuple(names)), tuple(sorted(set(elsewhere) - set(names)))
