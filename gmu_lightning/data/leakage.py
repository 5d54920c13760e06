"""Target leakage: refuse columns of metadata that reveal the genres, and name columns that an audience fills."""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gmu_lightning.cells import number, words
from gmu_lightning.movie import UserError

# Names of columns that hold the genres, beside names with the word genre.
LEAKING_NAMES = re.compile(
    r"(?:(?:movie|film|target|main|primary|true)_)?(?:labels?|category|categories)(?:_of_(?:the_)?(?:movies?|films?))?"
)
# A column reveals a genre only if the two agree in at least this share of train.
SAME = 0.95
# A column reveals a genre only if its errors are at most this share of the errors of always giving the more frequent answer.
SKILL = 0.2
# Smallest number of movies with a genre, and of movies without it.
FEWEST = 5
# Largest probability that an agreement is chance, times the number of tests (Bonferroni).
CHANCE = 0.01
# Columns that a sentence names.
NAMED = 5
# Separators of genres in a cell. Slash, ampersand and blank are tried last, because names of genres may contain them.
SEPARATORS = [rf"[\[\]{{}}()'\"|,;\t{more}]+" for more in ("", "/+&", r"/+&\s")]
PARTS = re.compile(SEPARATORS[-1])
LIMIT = "a number of"  # the beginning of `Agreement.what` for a limit

VERDICTS = {
    *("score", "scores", "rating", "ratings", "vote", "votes", "voted", "voters", "metascore", "popularity", "popular", "likes"),
    *("review", "reviews", "reviewers", "critic", "critics", "gross", "grossed", "grosses", "revenue", "revenues", "boxoffice"),
    *("tomatometer", "tomato", "tomatoes", "rotten", "metacritic", "letterboxd", "audience", "award", "awards", "oscar"),
    *("oscars", "nominations", "nominated", "wins", "won", "profit", "profits", "earnings", "takings", "admissions", "tickets"),
    *("views", "viewers", "watched", "downloads", "rank", "ranking", "favorites", "favourites", "roi"),
}
TWO_WORDS = ({"box", "office"}, {"opening", "weekend"})
RUN_TOGETHER = re.compile(
    r".{3,}(?:score|ratings?|votes|reviews|revenue|likes|popularity|gross)|(?:vote|rating|review)(?:average|avg|count|num|mean)"
)
SHARE_OF_RATINGS, FEWEST_SHARES = re.compile(r"(?:r|rating_?|votes?_?)\d{1,2}", re.IGNORECASE), 5
AGE_LIMITS = {"content", "mpaa", "age"}  # words of content ratings, which are known before a movie is out


class Agreement(NamedTuple):
    """The agreement of a column with a genre.

    Attributes:
        column: its name.
        genre: its name.
        what: the mark in the column, such as a value or any number from a limit on.
        inverse: whether the mark agrees with the lack of the genre.
        share: of the movies in which they agree, in [0, 1].
    """

    column: str
    genre: str
    what: str
    inverse: bool
    share: float

    @property
    def rank(self) -> tuple[float, bool]:
        """The share, then whether the mark agrees with the genre itself."""
        return self.share, not self.inverse

    def __str__(self) -> str:
        where = f"where {self.genre} does{' not' if self.inverse else ''}"
        return f"tells {self.genre} ({self.what} stands {where} in {100 * self.share:.1f} % of train)"


class Leak(NamedTuple):
    """A column that reveals labels.

    Attributes:
        why: a clause with the column as its subject.
        is_limit: whether the column only has a number from which on a label is nearly always right, such as a length.
    """

    why: str
    is_limit: bool = False


def leaks(table: Mapping[str, Mapping[str, Any]], genres: Mapping[str, Sequence[str]], by_name: bool = True) -> dict[str, Leak]:
    """Return {column: how it reveals the genres}, by its values in train.

    Args:
        table: {id: {column: cell}}.
        genres: {id: genres of a movie of train}.
        by_name: whether a column that is named like the genres counts too.
    """
    known = {id: names for id, names in genres.items() if names and id in table}
    found: dict[str, Leak] = {}
    for name in next(iter(table.values()), {}):
        column = {id: table[id][name] for id in known}
        if by_name and _named_like_genres(name):
            found[name] = Leak("is named like the answer")
        elif _same_as_genres(column, known):
            found[name] = Leak("holds the movies' genres")
        elif agreement := agreement_of(name, list(column.values()), list(known.values())):
            found[name] = Leak(str(agreement), agreement.what.startswith(LIMIT))
        elif meant := meanings(list(column.values()), list(known.values())):
            first = [f"{value[:40]} means {genre}" for value, genre in list(meant.items())[:3]]
            found[name] = Leak(f"tells the genres ({', '.join(first)}{', ...' if len(meant) > 3 else ''})")
    return found


def refuse_leakage(
    table: Mapping[str, Mapping[str, Any]], genres: Mapping[str, Sequence[str]], path: Path, left_out: Sequence[Any] = ()
) -> None:
    """Raise UserError if columns reveal the genres, by their names or by their values in train. Arguments are as in `leaks`."""
    refuse(leaks(table, genres), path, left_out)


def refuse(found: Mapping[str, Leak], path: Path, left_out: Sequence[Any] = ()) -> None:
    """Raise UserError if there are leaks.

    Args:
        found: {column: how it reveals the genres}.
        path: of the table, for the sentence.
        left_out: columns that were left out already, for the setting that the sentence proposes.
    """
    if found:
        named = [f"column {name} {leak.why}" for name, leak in list(found.items())[:NAMED]]
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        them = "them" if len(found) > 1 else "it"
        leave_out = leaving_out(left_out, found)
        raise UserError(f"{path}: {', '.join(named)}{more}, so nothing is learned from {them}: set {leave_out}.")


def leaving_out(left_out: Iterable[Any], more: Iterable[str]) -> str:
    """Return the setting that leaves out the columns `left_out` and `more`."""
    names = [name if re.fullmatch(r"[\w ./-]+", name) else f'"{name}"' for name in (*map(str, left_out), *more)]
    setting = f"data.leave_out=[{','.join(names)}]"
    return shlex.quote(setting) if re.search(r"[\s\"]", setting) else setting


def agreement_of(name: str, column: Sequence[Any], genres: Sequence[Sequence[str]]) -> Agreement | None:
    """Return the best agreement of a column with a genre, or None if no agreement is strong enough.

    The marks that are compared with each genre are the values, the elements of lists, whether a cell is filled, and each limit of
    a number. A mark agrees with a genre if both are present or both are absent in a share `SAME` of the movies, and if its errors
    are at most `SKILL` times those of a constant answer. If the genre has fewer than `FEWEST` movies or the agreement may be
    chance, it counts only if the column or the value has the genre's name.

    Args:
        name: of the column.
        column: N cells.
        genres: of the N movies.
    """
    vocabulary = list(dict.fromkeys(genre for names in genres for genre in names))
    has = np.array([[genre in names for genre in vocabulary] for names in genres], bool).reshape(len(genres), len(vocabulary))
    rows, numbers = _rows_of_words(column), _numbers(column)
    tests = 2 * len(vocabulary) * (1 + len(rows) + 2 * len(np.unique(numbers)))
    best: Agreement | None = None
    for what, word, marked in _marks(column, rows, numbers, has):
        errors = np.count_nonzero(has ^ marked[:, None], axis=0)  # (C,)
        for inverse, wrong in ((False, errors), (True, len(has) - errors)):
            for c in np.flatnonzero(_agrees(wrong, has)).tolist():
                found = Agreement(name, vocabulary[c], what, inverse, 1 - float(wrong[c]) / len(has))
                if best is not None and found.rank <= best.rank:
                    continue
                rare = min(has[:, c].sum(), (~has[:, c]).sum()) < FEWEST
                if _alike(vocabulary[c], name, word) or not (rare or _chance(has[:, c] ^ inverse, marked) * tests > CHANCE):
                    best = found
    return best


def meanings(column: Sequence[Any], genres: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return {value: genre} if a column holds a movie's main genre, by name or as a code; else an empty dictionary.

    A value means a genre if at least `FEWEST` movies have the value and nearly all of them have the genre, far more than among
    all movies. A column holds main genres if nearly all of its filled cells and half of train have such a value.

    Args:
        column: N cells.
        genres: of the N movies.
    """
    rows = [(word.casefold(), n) for n, cell in enumerate(column) for word in set(words(cell))]
    having: dict[str, list[int]] = defaultdict(list)
    for word, n in rows:
        having[word].append(n)
    shares = {genre: count / len(genres) for genre, count in Counter(g for names in genres for g in names).items()}
    found: dict[str, str] = {}
    meant: set[int] = set()
    for word, those in having.items():
        counts = Counter(genre for n in those for genre in genres[n])
        implied = [g for g, count in counts.items() if shares[g] < SAME and _nearly_all(count, len(those), shares[g])]
        tests = len(having) * len(shares)
        likely = [
            g for g in implied if _tail(len(genres), round(shares[g] * len(genres)), len(those), counts[g]) * tests <= CHANCE
        ]
        if likely and len(those) >= FEWEST:
            found[word] = max(likely, key=lambda genre: counts[genre])
            meant.update(those)
    filled = sum(cell is not None for cell in column)
    return found if meant and len(meant) >= max(SAME * filled, len(column) / 2) else {}


def _nearly_all(count: int, of: int, share: float) -> bool:
    return 1 - count / of <= min(1 - SAME, SKILL * (1 - share)) + 1e-9


def audience_columns(columns: Iterable[str]) -> list[str]:
    """Return the names of columns that an audience fills once a movie is out, such as ratings and revenues.

    Beside such a column, five or more columns r1, r2, ... are the shares of each rating.
    """
    names = list(columns)
    found = {name for name in names if _is_verdict(_words(name))}
    shares = {name for name in names if SHARE_OF_RATINGS.fullmatch(name)}
    return [name for name in names if name in (found | shares if found and len(shares) >= FEWEST_SHARES else found)]


def _is_verdict(words: set[str]) -> bool:
    named = VERDICTS & words or any(pair <= words for pair in TWO_WORDS) or any(map(RUN_TOGETHER.fullmatch, words))
    return bool(named) and not AGE_LIMITS & words


def _agrees(wrong: np.ndarray, has: np.ndarray) -> np.ndarray:
    """Return whether the numbers of errors, (..., C), are small enough for an agreement with each genre."""
    constant = np.minimum(has.sum(0), (~has).sum(0))
    return (constant > 0) & (wrong <= (1 - SAME) * len(has) + 1e-9) & (wrong <= SKILL * constant + 1e-9)


def _chance(has: np.ndarray, marked: np.ndarray) -> float:
    """Return the probability that at least as many random marks fall on the movies of a genre."""
    return _tail(len(has), int(has.sum()), int(marked.sum()), int((has & marked).sum()))


def _tail(movies: int, having: int, marked: int, both: int) -> float:
    """Return the hypergeometric probability of `both` or more."""
    ways = sum(comb(having, n) * comb(movies - having, marked - n) for n in range(both, min(having, marked) + 1))
    return float(Fraction(ways, comb(movies, marked)))


def _numbers(column: Sequence[Any]) -> np.ndarray:
    """Return a column's numbers, (N,), NaN for other cells; all NaN if few cells are numbers, or at most two are distinct."""
    numbers = np.array([found if (found := number(cell)) is not None else np.nan for cell in column], float)
    there = np.isfinite(numbers)
    use = 2 * there.sum() > sum(cell is not None for cell in column) and len(np.unique(numbers[there])) > 2
    return numbers if use else np.full(len(column), np.nan)


def _marks(
    column: Sequence[Any], rows: Mapping[str, list[int]], numbers: np.ndarray, has: np.ndarray
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield marks of cells: a description, the word if the mark is a word, and the marked movies, (N,) bool.

    Marks of too many or too few movies to agree with a genre are left out.
    """
    filled = np.array([cell is not None for cell in column], bool)
    yield "any value", "", filled
    sizes = np.arange(len(column) + 1)[:, None]
    possible = (_agrees(abs(sizes - has.sum(0)), has) | _agrees(abs(sizes - (~has).sum(0)), has)).any(1)
    for word, those in rows.items():
        if possible[len(those)]:
            marked = np.zeros(len(column), bool)
            marked[those] = True
            yield f"value {word[:40]}", word, marked
    for compare, side in ((np.greater_equal, "more"), (np.less_equal, "less")):
        for limit in _limits(numbers, has, side == "more"):
            yield f"{LIMIT} {limit:g} or {side}", "", compare(numbers, limit)


def _rows_of_words(column: Sequence[Any]) -> dict[str, list[int]]:
    """Return {word: rows that have it as a cell, as an element of a list, or as a part of either}."""
    rows: dict[str, list[int]] = defaultdict(list)
    for n, cell in enumerate(column):
        text = "\n".join(words(cell)).casefold()
        for word in {*text.split("\n"), *PARTS.split(text)} - {""}:
            rows[word].append(n)
    return rows


def _limits(numbers: np.ndarray, has: np.ndarray, more: bool) -> list[float]:
    """Return the limits from which on numbers (or down from which, unless `more`) agree with a genre or its lack."""
    order = np.argsort(numbers, kind="stable")[: int(np.isfinite(numbers).sum())]  # NaN stands last
    order = order[::-1] if more else order
    values = numbers[order]
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True)) if len(values) else np.zeros(0, int)
    wrong = (ends + 1)[:, None] + has.sum(0) - 2 * np.cumsum(has[order], axis=0)[ends]
    return values[ends[(_agrees(wrong, has) | _agrees(len(has) - wrong, has)).any(1)]].tolist()


def _alike(genre: str, *names: str) -> bool:
    """Return whether a name is the genre's or ends with it, such as `is_western`."""
    wanted = re.sub(r"[\W_]+", "", genre.casefold())
    return bool(wanted) and any(re.sub(r"[\W_]+", "", name.casefold()).endswith(wanted) for name in names)


def _words(name: str) -> set[str]:
    """Return the words of a name, such as {imdb, score} for `imdbScore`, `IMDBScore` and `imdb_score`."""
    return set(_snake(name).split("_"))


def _snake(name: str) -> str:
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.sub(r"[^a-z]+", "_", apart.casefold()).strip("_")


def _named_like_genres(name: str) -> bool:
    return bool({"genre", "genres"} & _words(name)) or LEAKING_NAMES.fullmatch(_snake(name)) is not None


def _same_as_genres(column: Mapping[str, Any], genres: Mapping[str, Sequence[str]]) -> bool:
    both = [(cell, genres[id]) for id, cell in column.items() if isinstance(cell, str | list)]
    most, others = (1 - SAME) * len(both) + 1e-9, 0
    for cell, names in both:
        others += not _lists(cell, names)
        if others > most:
            return False
    return bool(both)


def _lists(cell: Any, genres: Sequence[str]) -> bool:
    """Return whether a cell lists exactly these genres, in any order and with any separators."""
    text = " | ".join(cell) if isinstance(cell, list) else cell
    for separators in SEPARATORS:
        found = {part.strip().casefold() for part in re.split(separators, text)} - {""}
        if found == {genre.casefold() for genre in genres}:
            return True
    return False
