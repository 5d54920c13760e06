"""Find the files of movies, by an id or by a path in a record, in several spellings."""

from __future__ import annotations

import errno
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize
from urllib.parse import unquote, urlsplit

from gmu_lightning.data.audit import kind_of_missing
from gmu_lightning.movie import BadContent

POSTERS = (".jpeg", ".jpg", ".png", ".webp", ".jpe", ".jfif", ".gif", ".bmp", ".tif", ".tiff")
POSTER_KEYS = (
    *("img", "image", "poster", "img_path", "image_path", "poster_path", "img_file", "image_file", "poster_file"),
    *("images", "posters", "picture", "cover"),
)
NUMBERED = re.compile(r"(?:tt)?0*(\d+)(?:\.0)?", re.ASCII | re.IGNORECASE)
IMPOSSIBLE = (errno.ENAMETOOLONG, errno.EINVAL)  # errors for names that a file cannot have
DRIVE = re.compile(r"[A-Za-z]:[\\/]")
ADDRESS = re.compile(r"(?:https?|ftp|s3|gs)://", re.IGNORECASE)
SHORTEST = 3  # digits of an id that are searched for in names
MOST_NAMES = 20_000  # of a folder that are compared with a missing name


def one_form(id: str) -> str:
    """Return a form that is equal for all spellings of an id: `1001`, `0001001` and `tt0001001` become `1001`."""
    text = normalize("NFC", id.strip())
    numbered = NUMBERED.fullmatch(text)
    return numbered[1] if numbered else text


class Ids:
    """Look up ids among names that may have other leading zeros, IMDb's `tt`, or another Unicode form.

    Args:
        names: the existing names.
        ids: of the data set. A name that equals the id of another movie is not used for this one.
    """

    def __init__(self, names: Iterable[str], ids: Collection[str] = ()):
        self.names, self.ids = set(names), ids

    @cached_property
    def _forms(self) -> Mapping[str, list[str]]:
        forms: defaultdict[str, list[str]] = defaultdict(list)
        for name in sorted(self.names):
            forms[one_form(name)].append(name)
        return forms

    def find(self, id: str) -> str | None:
        """Return the name that equals an id, or the only name with another spelling of it; else None."""
        if id in self.names:
            return id
        found = self._forms.get(one_form(id), [])
        return found[0] if len(found) == 1 and found[0] not in self.ids else None


class Folder:
    """A folder with a file per movie, named by its id.

    Args:
        path: of the folder; it may be absent.
        suffixes: in lower case, the preferred one first if a movie has several files.
        ids: of the data set.
    """

    def __init__(self, path: Path, suffixes: tuple[str, ...], ids: Collection[str] = ()):
        self.path, self.suffixes, self.ids = path, suffixes, ids
        self._missed = False

    @cached_property
    def files(self) -> Mapping[str, str]:
        """{name without suffix: name}, for names with one of the suffixes in any case; empty if there is no folder. Read once."""
        ranked = {suffix: n for n, suffix in enumerate(self.suffixes)}
        found = [(stem, suffix) for stem, suffix in map(os.path.splitext, _listed(self.path)) if suffix.lower() in ranked]
        found.sort(key=lambda name: (ranked[name[1].lower()], name[1] != name[1].lower(), name[1]), reverse=True)
        return {stem: f"{stem}{suffix}" for stem, suffix in found}

    @cached_property
    def _known(self) -> Ids:
        return Ids(self.files, self.ids)

    def name(self, id: str) -> str | None:
        """Return the name of a movie's file, or None. Raises OSError if the folder cannot be read."""
        stem = self._known.find(id)
        return None if stem is None else self.files[stem]

    def content(self, id: str, modality: str) -> Path:
        """Return a movie's file.

        Raises:
            BadContent: the file does not exist or cannot be accessed.
            OSError: the folder cannot be read.
        """
        try:
            name = self.name(id)
            if name is not None and _is_file(self.path / name):
                return self.path / name
        except OSError as error:
            if error.filename is None or Path(error.filename) == self.path:
                raise
            raise unreadable(modality, error) from error
        raise BadContent(kind_of_missing(modality), f"no such file{self.near(id)}")

    def near(self, id: str) -> str:
        """Return ` (NAME is there)` if a name resembles an id. Only the first call searches; later ones return an empty text."""
        first, self._missed = not self._missed, True
        return near_name(self.path, id, self.suffixes) if first else ""


class NamedFiles:
    """Files, such as posters, that records name by a path, relative to the data set's folder or absolute and inside it.

    Args:
        root: the data set's folder.
    """

    def __init__(self, root: Path):
        self.root = root
        self._missed = False
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def poster(self, record: Mapping[str, Any]) -> Path:
        """Return the first existing poster that a record names. Raises BadContent if there is none."""
        names = [name for key in POSTER_KEYS for name in _names_in(record.get(key))]
        if not names:
            raise BadContent("missing_image", "it names no poster")
        problem = None
        for name in names:
            try:
                return self.find(name)
            except BadContent as bad:
                problem = problem or bad
        assert problem is not None
        raise problem

    def find(self, name: str, modality: str = "image", suffixes: tuple[str, ...] = POSTERS) -> Path:
        """Return the file with a name. Its separators (`\\`), escapes (`%20`), Unicode form, case and suffix may differ.

        Args:
            name: as written in a record.
            modality: of the file, for the problem's kind.
            suffixes: in lower case, the suffixes that may stand in place of the written one.

        Raises:
            BadContent: the file is missing, cannot be accessed, or lies outside the folder.
        """
        if ADDRESS.match(name.strip()):
            raise BadContent(kind_of_missing(modality), f"{name[:200]} is an address: download the file, and write its path")
        found_in = [self._inside(spelt) for spelt in _spellings(name)]
        inside = list(dict.fromkeys(path for path in found_in if path is not None))
        try:
            for path in inside:
                if _is_file(self.root / path):
                    return self.root / path
            for path in inside:
                found = self._alike(path, suffixes)
                if found is not None:
                    return found
        except OSError as error:
            raise unreadable(modality, error) from error
        if None in found_in:
            raise BadContent(kind_of_missing(modality), f"{name[:200]} points outside the data set's folder, so it is not read")
        first, self._missed = not self._missed, True
        there = near_name((self.root / inside[-1]).parent, inside[-1].stem, suffixes) if first else ""
        raise BadContent(kind_of_missing(modality), f"no such file: {name[:200]}{there}")

    def _inside(self, name: str) -> PurePosixPath | None:
        """Return the path relative to the folder, or None if it lies outside."""
        path = PurePosixPath(name)
        if ".." in path.parts or DRIVE.match(name) or not path.parts:
            return None
        if not path.is_absolute():
            return path
        place = Path(path)
        for typed in (place, place.parent.resolve() / place.name):  # either may contain a link
            for root in (self.root.absolute(), self.root.resolve()):
                if typed.is_relative_to(root):
                    return PurePosixPath(typed.relative_to(root))
        return None

    def _alike(self, path: PurePosixPath, suffixes: tuple[str, ...]) -> Path | None:
        """Return the only file whose path differs in Unicode form, case or, for the file's own name, suffix; else None."""
        parts = path.parts[1:] if path.parts[0] == self.root.name and len(path.parts) > 1 else path.parts
        place = self.root
        for n, part in enumerate(parts):
            names = self._listing(place)
            found = names.get(_folded(part), [])
            if n == len(parts) - 1 and not found:
                found = [name for suffix in suffixes for name in names.get(_folded(PurePosixPath(part).stem) + suffix, [])][:1]
            if normalize("NFC", part) in (exact := {normalize("NFC", name): name for name in found}):
                found = [exact[normalize("NFC", part)]]
            if len(found) != 1:
                return None
            place /= found[0]
        return place if _is_file(place) else None

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """Return {folded name: names} of a folder."""
        if folder not in self._listings:
            names: dict[str, list[str]] = {}
            for name in _listed(folder):
                names.setdefault(_folded(name), []).append(name)
            self._listings[folder] = names
        return self._listings[folder]


def unreadable(modality: str, error: OSError) -> BadContent:
    """Return the problem of a file that the system refuses to read; it is not `lasting`."""
    kind = "unreadable_image" if modality == "image" else "bad_array"
    return BadContent(kind, f"cannot be read: {error.strerror or error}", lasting=False)


def suffix_of(name: str) -> str:
    """Return the suffix of a path as written in a record, in lower case."""
    return PurePosixPath(name.strip().replace("\\", "/")).suffix.lower()


def near_name(folder: Path, id: str, suffixes: tuple[str, ...]) -> str:
    """Return ` (NAME is there)` if a name in a folder contains or resembles an id, else an empty text.

    Args:
        folder: if it does not exist, a folder beside it is named.
        id: of the movie.
        suffixes: of preferred names. Names with `.json` are skipped unless it is one of them.
    """
    try:
        if not folder.is_dir():
            near = get_close_matches(
                folder.name, [name for name in _listed(folder.parent) if (folder.parent / name).is_dir()], n=1
            )
            return f" ({near[0]} is there, {folder.name} is not)" if near else ""
        names = sorted(_listed(folder)[:MOST_NAMES], key=lambda name: Path(name).suffix.lower() not in suffixes)
        names = [name for name in names if ".json" in suffixes or not name.endswith(".json")]
    except OSError:
        return ""
    number = max(re.findall(r"\d+", id), key=len, default="")
    if len(number) >= SHORTEST or number == id:
        holds = re.compile(rf"(?<!\d)0*{number.lstrip('0') or '0'}(?!\d)")
        near = [name for name in names if holds.search(name)][:1]
    else:
        stems = {Path(name).stem: name for name in reversed(names)}
        near = [stems[stem] for stem in get_close_matches(id, stems, n=1, cutoff=0.8)]
    return f" ({near[0]} is there)" if near else ""


def _names_in(value: Any) -> Iterator[str]:
    """Yield the paths in the value of a key: a text, `{"path": text}`, or a list of these."""
    if isinstance(value, str) and value.strip():
        yield value
    elif isinstance(value, Mapping):
        yield from _names_in(value.get("path"))
    elif isinstance(value, list):
        for one in value:
            yield from _names_in(one)


def _spellings(name: str) -> Iterator[str]:
    """Yield a name as it is, then with other separators and without escapes."""
    if name.lower().startswith("file:"):
        name = unquote(urlsplit(name.strip()).path)
    for text in (name, name.strip(), unquote(name).strip()):
        yield text
        yield text.replace("\\", "/")


def _folded(name: str) -> str:
    return normalize("NFC", name).casefold()


def _listed(folder: Path) -> list[str]:
    """Return the sorted names in a folder; empty if there is no folder."""
    try:
        with os.scandir(str(folder)) as entries:
            return sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_file(path: Path) -> bool:
    """Return whether a path is a file; False for an impossible name."""
    try:
        return path.is_file()
    except ValueError:
        return False
    except OSError as error:
        if error.errno in IMPOSSIBLE:
            return False
        raise
