"""MM-IMDb as published: `split.json`, and a JSON file and a poster per movie."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.layouts import FILE_NAMES, FirstUse
from gmu_lightning.data.strings import as_utf8, parsed, shows
from gmu_lightning.movie import SPLITS, Movie, UserError

ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
POSTERS = (".jpeg", ".jpg", ".png")
PLOTS: dict[str, Callable[[Sequence[str]], str]] = {
    "longest": lambda plots: max(plots, key=len),  # in characters, the first of equals, as the published readers take it
    "first": lambda plots: plots[0],
    "concat": " ".join,
}


class RawLayout:
    """A folder with `split.json` and `dataset/<id>.json`, `dataset/<id>.jpeg`.

    Args:
        root: the folder that holds `split.json`.
        plot: which of a movie's plots is its text: `longest`, `first`, or all of them (`concat`).

    Raises:
        UserError: `split.json` does not hold the ids of three splits.
    """

    name = "raw"

    def __init__(self, root: Path, plot: str = "longest"):
        self.root, self.plot = root, PLOTS[plot]
        self.ids = read_split_file(root / "split.json")
        self.first = FirstUse(self.ids)

    def record_file(self, id: str, split: str) -> str:
        """A file a movie."""
        return f"dataset/{id}.json"

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """`content["text"]` is the plot (str), `content["image"]` the poster (Path)."""
        for n, movie in enumerate(self.ids[split]):
            file = self.record_file(movie, split)
            if self.first.repeated(movie, split, n, "split.json", audit):
                continue
            try:
                record = _record(self.root / file)
            except ValueError as broken:
                audit.add(movie, file, split, "broken_json", "removed", str(broken))
                continue
            content: dict[str, Any] = {}
            plots = plots_of(record)
            if plots:
                content["text"] = self.plot(plots)
            else:
                audit.add(movie, file, split, "missing_plot", "kept_absent", "it has no plot, or an empty one")
            poster = self._poster(movie)
            if poster is not None:
                content["image"] = poster
            else:
                audit.add(movie, f"dataset/{movie}{POSTERS[0]}", split, "missing_image", "kept_absent", "no such file")
            yield Movie(movie, content, record["genres"])

    def _poster(self, movie: str) -> Path | None:
        candidates = (self.root / "dataset" / f"{movie}{suffix}" for suffix in POSTERS)
        return next((path for path in candidates if path.is_file()), None)


def read_split_file(path: Path) -> dict[str, list[str]]:
    """Ids per split; `dev` is val. Raises UserError."""
    try:
        found = parsed(as_utf8(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as broken:
        raise UserError(f"{path} cannot be read as JSON ({broken}): restore the split file of the data set.") from broken
    ids = {}
    for split in SPLITS:
        names = FILE_NAMES[split]
        listed = next((found[name] for name in names if name in found), None) if isinstance(found, dict) else None
        if not isinstance(listed, list) or not listed:
            has = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
            raise UserError(f"{path} has no list of ids named {' or '.join(names)}, only {has}: expected train, dev and test.")
        odd = next((movie for movie in listed if not isinstance(movie, str) or not ID.fullmatch(movie)), None)
        if odd is not None:
            raise UserError(f'{path} lists {odd!r} in {names[0]}: expected ids of letters and digits, such as "0000005".')
        ids[split] = listed
    return ids


def _record(path: Path) -> dict[str, Any]:
    """A movie's JSON, its genres settled. Raises ValueError in words for the audit."""
    try:
        record = parsed(as_utf8(path.read_bytes()))
    except FileNotFoundError:
        raise ValueError("no such file, so its genres are unknown") from None
    except (OSError, RecursionError) as unreadable:
        raise ValueError(f"cannot be read: {unreadable}") from unreadable
    if not isinstance(record, dict):
        raise ValueError(f"holds a {type(record).__name__}, expected an object")  # noqa: TRY004
    return {**record, "genres": genres_of(record, "genres")}


def genres_of(record: dict[str, Any], key: str) -> tuple[str, ...]:
    """A record's genres, each once; a record that names none has none. ValueError where they are no list of strings."""
    genres = record.get(key)
    if genres is None:
        return ()
    if not isinstance(genres, list) or not all(isinstance(genre, str) and genre for genre in genres):
        raise ValueError(f"{key} is {str(genres)[:60]!r}, expected a list of strings")
    return tuple(dict.fromkeys(genres))


def plots_of(record: dict[str, Any]) -> list[str]:
    """The plots that say something, as they stand but for white space around them."""
    plots = record.get("plot")
    plots = plots if isinstance(plots, list) else [plots]
    return [plot.strip() for plot in plots if isinstance(plot, str) and shows(plot)]
