"""Clean strings of untrusted files: encodings, lone surrogates, which UTF-8 cannot hold, and invisible characters."""

from __future__ import annotations

import codecs
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gmu_lightning.data.audit import Audit
from gmu_lightning.files import bytes_of, sound
from gmu_lightning.movie import SPLITS, Movie

# UTF-32 first, because its little-endian mark begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
    codecs.BOM_UTF8: "utf-8",
}
BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"  # Hangul fillers and the empty Braille pattern, whose category is not blank
MOST_RECORD, MOST_SPLIT, MOST_TABLE = 64 << 20, 256 << 20, 4 << 30  # bytes of a movie's file, a split file, a table
MINUS = "\u2212"
IGNORED = ("Cc", "Cf", "Pc", "Pd", "Zs")  # categories of blanks, dashes and format characters
SHOWN_NAMES = 3


def as_utf8(data: bytes) -> bytes:
    """Return the bytes of a text file as UTF-8 without a byte order mark.

    The mark determines the encoding. Without a mark, the zero bytes among the first four determine it (RFC 4627, section 3). A
    damaged character at the end of UTF-16 or UTF-32 is left out. Bytes that are UTF-8 are not checked.

    Raises:
        ValueError: UTF-16 or UTF-32 is damaged in the middle.
    """
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    encoding = MARKS.get(mark, "utf-8")
    if not mark and 0 < data[:4].count(0) < 4:
        encoding = json.detect_encoding(data)
    if encoding == "utf-8":
        return data[len(mark) :]
    text = codecs.getincrementaldecoder(encoding)("surrogatepass").decode(data[len(mark) :])
    return text.encode("utf-8", "surrogatepass")


def text_in(path: Path) -> str:
    """Return the text of a file in any encoding of `MARKS`. Raises OSError or ValueError."""
    return as_utf8(bytes_of(path, MOST_TABLE)).decode("utf-8", "surrogatepass")


def parsed(data: bytes) -> Any:
    """Parse UTF-8 bytes as JSON. Raises ValueError or RecursionError."""
    return json.loads(data.decode("utf-8-sig", "surrogatepass"))


def shows(text: str) -> bool:
    """Return whether a text has a visible character."""
    return any(_shows(character) for character in text)


def tidy(name: str) -> str:
    """Return a name in Unicode's form NFC, without blanks and invisible characters at its ends; "" if no character is visible.

    Lone surrogates become U+FFFD.
    """
    name = unicodedata.normalize("NFC", sound(name))
    shown = [n for n, character in enumerate(name) if _shows(character)]
    if not shown:
        return ""
    end = shown[-1] + 1
    while end < len(name) and unicodedata.category(name[end])[0] == "M":  # keep the combining marks of the last letter
        end += 1
    return name[shown[0] : end]


def spelling(name: str) -> str:
    """Return a form that is equal for names that differ only by case, blanks or dashes."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in folded if unicodedata.category(c) not in IGNORED and c != MINUS)


def spelt_alike(names: Iterable[str]) -> str | None:
    """Return a warning if some names differ only by case, blanks or dashes, else None."""
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(spelling(name), []).append(name)
    alike = [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    if not alike:
        return None
    more = f" (and {len(alike) - SHOWN_NAMES} more)" if len(alike) > SHOWN_NAMES else ""
    return (
        f"genre_spelling: {', '.join(alike[:SHOWN_NAMES])}{more} differ by case, blanks or dashes only "
        "and count as different genres: spell each genre in one way."
    )


def read_soundly(
    read: Callable[[str, Audit], Iterable[Movie]], record_file: Callable[[str, str], str], audit: Audit
) -> dict[str, list[Movie]]:
    """Read the movies of every split, with clean strings. A plot without a visible character becomes absent.

    Of movies with the same clean id, the first in the order train, val, test is kept.

    Args:
        read: yields the movies of a split, and adds problems to the audit.
        record_file: returns the file of a movie's record, by id and split.
        audit: receives each replaced text and each movie that is left out.

    Returns:
        {split: movies in its order}.
    """
    found: dict[str, list[Movie]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    for split in SPLITS:
        for raw in read(split, audit):
            movie, damaged = _mended(raw)
            file = record_file(raw.id, split)
            if movie.id in seen:
                detail = "an earlier movie has the same id, once lone surrogates are replaced"
                audit.add(movie.id, file, split, "duplicate_id", "removed", detail)
                continue
            seen.add(movie.id)
            if damaged:
                detail = f"lone surrogates in its {', '.join(damaged)} are replaced by U+FFFD"
                audit.add(movie.id, file, split, "replaced_text", "kept", detail)
            if "text" in raw.content and "text" not in movie.content:
                audit.add(movie.id, file, split, "missing_plot", "kept_absent", "no character of its plot shows anything")
            found[split].append(movie)
    return found


def _shows(character: str) -> bool:
    category = unicodedata.category(character)
    return (category[0] in "LNPS" or category in ("Cn", "Co")) and character not in BLANK_LETTERS


def _mended(movie: Movie) -> tuple[Movie, list[str]]:
    """Return a movie with clean strings, and the names of its parts that had lone surrogates."""
    content = {modality: _sound_in(value) for modality, value in movie.content.items()}
    damaged = [name for name, value in (("id", movie.id), ("genres", list(movie.genres))) if _sound_in(value) != value]
    damaged += [m for m, value in movie.content.items() if isinstance(value, str | dict) and content[m] != value]
    if isinstance(plot := content.get("text"), str) and not shows(plot):
        del content["text"]
    genres = tuple(dict.fromkeys(name for genre in movie.genres if (name := tidy(genre))))
    return replace(movie, id=sound(movie.id), content=content, genres=genres), damaged


def _sound_in(value: Any) -> Any:
    """Return a text, a list or a table's row without lone surrogates, and any other content unchanged."""
    if isinstance(value, str):
        return sound(value)
    if isinstance(value, list):
        return [_sound_in(part) for part in value]
    if isinstance(value, Mapping):
        if all(key.isascii() and (cell.isascii() if isinstance(cell, str) else not isinstance(cell, list | dict))
               for key, cell in value.items()):  # fmt: skip
            return value  # the usual case, without a copy
        return {_sound_in(key): _sound_in(cell) for key, cell in value.items()}
    return value
