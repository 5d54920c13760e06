"""Find the column of each role in a table: id, modalities, labels, split and group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning.config.checks import near
from gmu_lightning.data.readers.media import POSTERS, suffix_of
from gmu_lightning.data.readers.tables import RecordTable
from gmu_lightning.movie import UserError

# {role: names of its column in lower case, the preferred one first}. Another column is read only where its name is typed.
COMMON = {
    "id": ("id", "movie_id", "movieid", "imdb_id", "imdbid", "tmdb_id", "tconst", "item_id", "itemid", "uid", "uuid", "index"),
    "text": (
        "plot",
        "overview",
        "synopsis",
        "description",
        "text",
        "summary",
        "plot_synopsis",
        "plot_summary",
        "abstract",
        "title",
    ),
    "image": (
        "poster",
        "image",
        "img",
        "file",
        "picture",
        "photo",
        "cover",
        "poster_path",
        "image_path",
        "image_file",
        "img_path",
    ),
    "video": ("video", "trailer", "clip", "video_path", "trailer_path", "video_file"),
    "audio": ("audio", "sound", "music", "audio_path", "sound_path", "audio_file"),
    "labels": ("genres", "genre", "labels", "label", "tags", "categories", "category", "classes", "class", "target"),
    "split": ("split", "subset", "partition", "fold_name"),
    "group": ("group", "group_id"),
}
MEDIA = {
    "image": POSTERS,
    "video": (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v"),
    "audio": (".wav", ".mp3", ".flac", ".ogg", ".m4a", ".aac", ".opus", ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v"),
}
ARRAYS = (".npy", ".p", ".pkl", ".pickle", ".pt")
PEEKED = 200  # cells of a column that show whether it holds files
FLAGS = {"0", "1", "0.0", "1.0", "true", "false", "yes", "no", "t", "f", "y", "n"}
ROLES = (*COMMON, "metadata")
SEVERAL = ("text", "labels", "metadata")  # roles that may have several columns


@dataclass(frozen=True)
class Roles:
    """The columns of a table by their role.

    Attributes:
        id, image, video, audio, split, group: name of the column; None if the table has none.
        text: names of the columns whose texts are joined.
        labels: name of the column of labels, or the names of several columns with one label each.
        metadata: names of the columns that are read as metadata.
    """

    id: str | None = None
    text: tuple[str, ...] = ()
    image: str | None = None
    video: str | None = None
    audio: str | None = None
    labels: tuple[str, ...] = ()
    split: str | None = None
    group: str | None = None
    metadata: tuple[str, ...] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have a column."""
        return tuple(m for m in ("text", "image", "video", "audio", "metadata") if getattr(self, m))


def roles_of(table: RecordTable, typed: Mapping[str, Any], left_out: Sequence[str] = ()) -> Roles:
    """Return the column of each role.

    Args:
        table: as read.
        typed: {role: name, list of names or None} as in `data.columns`. A role that is None, or missing, takes the column with
            the first of the role's common names; metadata takes the rest.
        left_out: names of columns that are not read.

    Raises:
        UserError: a typed column does not exist, or a role has several columns where it may have one.
    """
    names = list(table.columns)
    for name in left_out:
        _existing(name, names, "data.leave_out")
    chosen: dict[str, tuple[str, ...]] = {}
    for role, value in typed.items():
        if role not in ROLES:
            raise UserError(f"data.columns.{role} is no role of a column: {near(role, ROLES)}")
        if value is not None and not (role == "metadata" and value == "rest"):
            chosen[role] = _typed(role, value, names)
    taken = {name for columns in chosen.values() for name in columns} | set(left_out)
    for role, common in COMMON.items():
        if role not in chosen and (column := _found(table, role, common, taken)) is not None:
            chosen[role] = (column,)
            taken.add(column)
    if "metadata" not in chosen:
        chosen["metadata"] = tuple(name for name in names if name not in taken)
    single = {role: columns[0] for role, columns in chosen.items() if role not in SEVERAL}
    return Roles(**{**chosen, **single})  # type: ignore[arg-type]


def _typed(role: str, value: Any, names: Sequence[str]) -> tuple[str, ...]:
    columns = tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)
    if len(columns) != 1 and role not in SEVERAL:
        raise UserError(f"data.columns.{role}={value} names {len(columns)} columns: name one")
    for name in columns:
        _existing(name, names, f"data.columns.{role}")
    return columns


def _existing(name: str, names: Sequence[str], setting: str) -> None:
    if name not in names:
        raise UserError(f"{setting} names {name}, which is no column of the table: {near(name, names)}")


def _found(table: RecordTable, role: str, common: Sequence[str], taken: set[str]) -> str | None:
    """Return the column that has a common name of a role and, for files, holds names of files; None if there is none."""
    by_name: dict[str, str] = {}
    for name in table.columns:
        by_name.setdefault(name.strip().lower().replace(" ", "_"), name)
    for word in common:
        name = by_name.get(word, "")
        if name and name not in taken and (role not in MEDIA or _holds_files(table.columns[name], role)):
            return name
    return None


def _holds_files(cells: Sequence[Any], role: str) -> bool:
    """Return whether most of the first filled cells name files of a modality, or are pictures or arrays in memory."""
    first = cells[:PEEKED]
    held = sum(isinstance(cell, np.ndarray | bytes) for cell in first)
    names = [str(cell) for cell in first if isinstance(cell, str | Path) and str(cell).strip()]
    return 2 * (held + sum(suffix_of(name) in (*MEDIA[role], *ARRAYS) for name in names)) > held + len(names)


def flags(table: RecordTable) -> list[str]:
    """Return the names of columns that hold only 0 and 1, or only true and false, both of them at least once."""
    return [name for name, cells in table.columns.items() if len(seen := _first_values(cells)) == 2 and seen <= FLAGS]


def _first_values(cells: Sequence[Any]) -> set[str]:
    """Return up to three distinct filled cells in lower case."""
    seen: set[str] = set()
    for cell in cells:
        text = "" if cell is None else str(cell).strip().lower()
        if text:
            seen.add(text)
            if len(seen) > 2:
                break
    return seen
