"""Turn an error of the machine, such as a full disk, into one sentence."""

from __future__ import annotations

import errno
import os
import re

REFUSALS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
)
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
NO_MEMORY = re.compile(r"memory|can't start new thread|DataLoader worker|failed to map segment", re.I)
HOW = "give a folder that this user may write to, on a disk with room"


def refusal(error: BaseException) -> str | None:
    """Return a sentence on a file, memory, threads or processes that the machine refused; None for any other error."""
    text = " ".join(str(error).split())[:200]
    if isinstance(error, OSError):
        if error.errno in REFUSALS:
            return refused_file(error)
        if error.errno in TOO_MANY_FILES:
            return f"this machine allows no more open files ({text}): type `ulimit -n 4096` first, or lower data.workers"
    if _lacks_memory(error):
        return f"this machine lacks memory or threads ({text}): lower data.batch_size, data.workers or the sizes of the model"
    return None


def refused_file(error: OSError) -> str:
    """Return a sentence on a file that the machine refuses to read or write."""
    if isinstance(error.filename, str) and os.access(error.filename, os.F_OK) and not os.access(error.filename, os.R_OK):
        return f"{error.filename} cannot be read ({error.strerror}): give this user the right to read it, or name another file"
    return f"{error.filename or 'a file'} cannot be written or read ({error.strerror}): {HOW}"


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN):
        return True
    said = isinstance(error, (RuntimeError, ImportError)) and NO_MEMORY.search(str(error)) is not None
    return said or isinstance(error, MemoryError)
