"""Read single raw contents: hash one, and store one as a preparation needs it."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning.data.readers.media import unreadable
from gmu_lightning.files import digest, file_digest, looks_like
from gmu_lightning.movie import ArrayFile, BadContent, Preparation, Unusable, UserError, file_of

FULL = (errno.ENOSPC, errno.EDQUOT)
MACHINE = (*FULL, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # errors that are no file's fault


class NoneUsable(UserError):
    """No content of train can be used.

    Args:
        modality: of the contents.
        bad: contents of train, at least one.
    """

    def __init__(self, modality: str, bad: Sequence[Unusable]):
        super().__init__(f"no {modality} of train can be used ({bad[0].detail}): restore the files, or choose other modalities")
        self.bad = bad


def content_digest(content: Any) -> str:
    """Return the SHA-256 of a file's bytes (Path), a text, an array or a table's row (dict), in hexadecimal digits.

    Raises OSError if a file cannot be read.
    """
    if isinstance(content, Path):
        return file_digest(content)
    if isinstance(content, np.ndarray):
        return hashlib.sha256(f"{content.dtype}{content.shape}".encode() + np.ascontiguousarray(content).tobytes()).hexdigest()
    if isinstance(content, dict):
        return digest(content)
    return hashlib.sha256(content if isinstance(content, bytes) else str(content).encode()).hexdigest()


def opened(content: Any) -> Any:
    """Return a content, read from its file if it is an `ArrayFile`. Raises BadContent."""
    return content.load() if isinstance(content, ArrayFile) else content


def stored(preparation: Preparation, modality: str, content: Any) -> np.ndarray | BadContent:
    """Return the array that a preparation stores for a raw content, or the reason why there is none.

    Raises:
        UserError: the preparation reads no contents of this kind.
        OSError: the machine is at fault, such as with too many open files.
    """
    file = file_of(content)
    try:
        return preparation.store(opened(content))
    except BadContent as problem:
        return described(problem, file)
    except OSError as error:
        if not is_about(error, file):
            raise
        return unreadable(modality, error)


def is_about(error: OSError, file: Path | None) -> bool:
    """Return whether the system refuses this file; False for an error of the store or of the machine's resources."""
    return file is not None and error.errno not in MACHINE and error.filename in (None, file, str(file))


def described(problem: BadContent, file: Path | None) -> BadContent:
    """Return the problem, described by the file's first bytes if they show another kind of file."""
    if file is None:
        return problem
    with suppress(OSError), file.open("rb") as raw:
        known = looks_like(raw.read(1024))
        if known:
            return BadContent(problem.kind, known, problem.lasting)
    return problem


def usable(modality: str, contents: Sequence[Any], rows: Sequence[int]) -> Iterator[Any]:
    """Yield the readable contents of these rows, from which a preparation may learn. Raises NoneUsable."""
    bad: list[Unusable] = []
    there = [n for n in rows if contents[n] is not None]
    for n in there:
        try:
            content = opened(contents[n])
        except BadContent as problem:
            problem = described(problem, file_of(contents[n]))
            bad.append(Unusable(n, problem.kind, problem.detail))
        else:
            yield content
    if bad and len(bad) == len(there):
        raise NoneUsable(modality, bad)
