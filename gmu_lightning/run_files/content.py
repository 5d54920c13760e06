"""The bytes of a run's file: only a regular file of a sane size is opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gmu_lightning.movie import UserError

KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


class Damaged(UserError):
    """A file of a run or a sweep is not what a command wrote. The text is one sentence that names the file."""

    def __init__(self, path: Path, problem: str, hint: str | None = None):
        super().__init__(f"{path} is damaged, for {problem}: {hint or f'restore it, or leave {_owner(path)} out'}")
        self.path = path

    def __reduce__(self) -> tuple[type[UserError], tuple[str]]:
        return UserError, (str(self),)


def _owner(path: Path) -> Path:
    """The folder of the run or sweep that a file is of."""
    inner = ("predictions", "checkpoints", "search")
    return path.parent.parent if path.parent.name in inner else path.parent


def is_there(path: Path) -> bool:
    """Return whether something has this name, be it a link to nothing."""
    return os.path.lexists(path)


def check_regular(path: Path, most: int, hint: str | None = None) -> int:
    """Return the size of a regular file, which is not opened.

    Args:
        most: bytes that a file of this kind has at most.
        hint: what to do about a damaged file.

    Raises:
        FileNotFoundError: nothing has this name.
        Damaged: it is a folder, a pipe, a device or a link that leads nowhere, it is empty, or it is too large.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if is_there(path):
            raise Damaged(path, "it is a link to a file that is gone", hint) from None
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise Damaged(path, f"it cannot be read ({error.strerror})", hint) from error
    for is_kind, words in KINDS.items():
        if is_kind(found.st_mode):
            raise Damaged(path, f"it is {words}, and a file is expected", hint)
    if not stat.S_ISREG(found.st_mode):
        raise Damaged(path, "it is no regular file", hint)
    if found.st_size == 0:
        raise Damaged(path, "it is empty", hint)
    if found.st_size > most:
        raise Damaged(path, f"it has {found.st_size:,} bytes, and at most {most:,} are expected", hint)
    return found.st_size


def content(path: Path, most: int, hint: str | None = None) -> bytes:
    """Return the bytes of a regular file. Raises FileNotFoundError or Damaged."""
    check_regular(path, most, hint)
    try:
        with path.open("rb") as file:
            found = file.read(most + 1)
    except OSError as error:
        raise Damaged(path, f"it cannot be read ({error.strerror})", hint) from error
    if len(found) > most:
        raise Damaged(path, f"it grew beyond {most:,} bytes while it was read", hint)
    return found


def text(path: Path, most: int, hint: str | None = None) -> str:
    """Return a file's text. Raises FileNotFoundError, or Damaged where it is no UTF-8."""
    try:
        return content(path, most, hint).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Damaged(path, f"its byte {error.start} is no UTF-8", hint) from error
