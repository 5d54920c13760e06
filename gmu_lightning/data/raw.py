"""MM-IMDb as published: `split.json`, and a JSON file and a poster per movie."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.layouts import FILE_NAMES, FirstUse, why_no_json
from gmu_lightning.data.media import POSTERS, Folder
from gmu_lightning.data.strings import as_utf8, parsed, shows
from gmu_lightning.movie import SPLITS, BadContent, Movie, UserError

ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
PLOT_KEYS = ("plot", "plots", "text")
GENRE_KEYS = ("genres", "genre", "label", "labels", "category", "categories", "tags")  # what a record's genres may stand under
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
        self.records, self.posters = (Folder(root / "dataset", suffixes, self.first.where) for suffixes in ((".json",), POSTERS))

    def record_file(self, id: str, split: str) -> str:
        """A file a movie."""
        return f"dataset/{self.records.name(id) or f'{id}.json'}"

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """`content["text"]` is the plot (str), `content["image"]` the poster (Path)."""
        for n, movie in enumerate(self.ids[split]):
            file = self.record_file(movie, split)
            if self.first.repeated(movie, split, n, "split.json", audit):
                continue
            try:
                record = self._record(movie)
            except ValueError as broken:
                audit.add(movie, file, split, "broken_json", "removed", str(broken))
                continue
            content: dict[str, Any] = {}
            plots = plots_of(record)
            if plots:
                content["text"] = self.plot(plots)
            else:
                audit.add(movie, file, split, "missing_plot", "kept_absent", "it has no plot, or an empty one")
            try:
                content["image"] = self.posters.content(movie, "image")
            except BadContent as bad:
                poster = f"dataset/{self.posters.name(movie) or movie + POSTERS[0]}"
                audit.add(movie, poster, split, bad.kind, "kept_absent", bad.detail, modality="image")
            note_other_key(record, "genres", movie, file, split, audit)
            yield Movie(movie, content, record["genres"])

    def _record(self, movie: str) -> dict[str, Any]:
        """A movie's JSON, its genres settled. Raises ValueError in words for the audit."""
        name = self.records.name(movie)
        if name is None:
            raise ValueError(f"no such file, so its genres are unknown{self.records.near(movie)}")
        try:
            data = (self.records.path / name).read_bytes()
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror or error}") from error
        try:
            record = parsed(as_utf8(data))
        except (ValueError, RecursionError) as broken:
            raise ValueError(why_no_json(data, broken)) from broken
        if not isinstance(record, dict):
            raise ValueError(f"holds a {type(record).__name__}, expected an object")  # noqa: TRY004
        return {**record, "genres": genres_of(record, "genres")}


def read_split_file(path: Path) -> dict[str, list[str]]:
    """Ids per split; `dev` is val. Raises UserError."""
    data = b""
    try:
        data = path.read_bytes()
        found = parsed(as_utf8(data))
    except (OSError, ValueError, RecursionError) as broken:
        why = broken if isinstance(broken, OSError) else why_no_json(data, broken)
        raise UserError(f"{path} cannot be read as JSON ({why}): restore the split file of the data set.") from broken
    ids = {}
    for split in SPLITS:
        names = FILE_NAMES[split]
        listed = next((found[name] for name in names if name in found), None) if isinstance(found, dict) else None
        if listed == []:
            raise UserError(f"{path} lists no movie in {split}: expected ids in each of train, dev and test.")
        if not isinstance(listed, list):
            has = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
            raise UserError(f"{path} has no list of ids named {' or '.join(names)}, only {has}: expected train, dev and test.")
        odd = next((movie for movie in listed if not isinstance(movie, str) or not ID.fullmatch(movie)), None)
        if odd is not None:
            raise UserError(f'{path} lists {odd!r} in {names[0]}: expected ids in quotes, of letters and digits, like "0000005".')
        ids[split] = listed
    return ids


def genres_of(record: dict[str, Any], key: str) -> tuple[str, ...]:
    """A record's genres, each once; a record that names none has none. ValueError where they are no list of strings."""
    genres = record.get(key)
    if genres is None:
        return ()
    names = [_genre(genre) for genre in genres] if isinstance(genres, list) else [None]
    if not all(names):
        raise ValueError(f"{key} is {str(genres)[:60]!r}, expected a list of strings")
    return tuple(dict.fromkeys(name for name in names if name))


def _genre(genre: Any) -> str | None:
    """A genre's name: a string, or TMDB's `{"id": 18, "name": "Drama"}`."""
    name = genre.get("name") if isinstance(genre, Mapping) else genre
    return name if isinstance(name, str) else None


def note_other_key(record: Mapping[str, Any], key: str, id: str, file: str, split: str, audit: Audit) -> None:
    """Name in the audit a movie whose genres stand under another key than the data set's."""
    if record.get(key):
        return
    other = next((name for name in GENRE_KEYS if name != key and record.get(name)), None)
    if other:
        audit.add(id, file, split, "no_genre", "kept", f"it has {other} and no {key}: rename the key to {key}")


def plots_of(record: Mapping[str, Any], keys: Sequence[str] = PLOT_KEYS) -> list[str]:
    """The plots under the first key that holds one, as they stand but for white space around them."""
    for key in keys:
        plots = record.get(key)
        found = [
            plot.strip() for plot in (plots if isinstance(plots, list) else [plots]) if isinstance(plot, str) and shows(plot)
        ]
        if found:
            return found
    return []
