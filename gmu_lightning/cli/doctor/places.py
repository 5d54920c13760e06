"""Check the folders that commands write to: room, rights, locks of the file system, the temporary folder and the home folder."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gmu_lightning.cli.doctor.check import OK, WARNING, WRONG, Check

GB = 1e9
LITTLE_ROOM, NO_ROOM = 10 * GB, 0.5 * GB
FEW_INODES = 10_000
BETWEEN_HOSTS = re.compile(r"nfs|lustre|gpfs|beegfs|ceph|cifs|smb|afs|fuse")  # kinds of file systems that several machines share


class Mounted(NamedTuple):
    """A file system: its kind, such as `ext4`, and the options of its mount."""

    kind: str
    options: str


def room(name: str, folder: Path, option: str) -> Check:
    """Check that a folder, or the folder above it that exists, can be written to and has room.

    Args:
        name: of the check.
        folder: may be missing.
        option: the setting that names it.
    """
    existing = _existing(folder)
    shown = f"{folder}" if existing == folder.absolute() else f"{folder} (to be made in {existing})"
    remedy = f"give another folder: {option}=FOLDER"
    if not existing.is_dir():
        return Check(name, WRONG, f"{option}={folder}: {existing} is no folder", remedy)
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".gmu-doctor-"):
            pass
        free, files = shutil.disk_usage(existing).free, _free_inodes(existing)
    except OSError as error:
        return Check(name, WRONG, f"{option}={shown} cannot be written to ({error.strerror})", remedy)
    found = f"{shown}: {free / GB:.1f} GB free on {mounted(existing).kind}"
    if free < NO_ROOM or files == 0:
        return Check(name, WRONG, f"{found}{'' if files else ', and no further file'}", f"make room, or {remedy}")
    if free < LITTLE_ROOM or (files is not None and files < FEW_INODES):
        return Check(name, WARNING, found, f"features and checkpoints of large data take more: make room, or {remedy}")
    return Check(name, OK, found)


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    path = folder.expanduser().absolute()
    return next((place for place in (path, *path.parents) if os.path.lexists(place)), path)


def _free_inodes(folder: Path) -> int | None:
    """Return how many further files the file system can hold; None where it has no fixed number."""
    if not hasattr(os, "statvfs"):
        return None
    stat = os.statvfs(folder)
    return stat.f_favail if stat.f_files else None


def locks(folder: Path) -> Check:
    """Check that a lock on a file of the store excludes a second one.

    Args:
        folder: of the store, or a folder in whose nearest existing parent it will be made.
    """
    existing = _existing(folder)
    where = mounted(existing)
    remedy = "choose a store on a local disk: store.dir=FOLDER"
    try:
        import fcntl
    except ImportError:
        return Check("locks", WARNING, "this system has no POSIX locks", "run one command at a time on one store")
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".gmu-doctor-") as first, Path(first.name).open("rb") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                excluded = True
            else:
                excluded = False
    except OSError as error:
        why = error.strerror or type(error).__name__
        return Check("locks", WRONG, f"no file in {existing} ({where.kind}) can be locked ({why})", remedy)
    if not excluded:
        return Check("locks", WRONG, f"a lock in {existing} ({where.kind}) does not exclude a second one", remedy)
    if BETWEEN_HOSTS.search(where.kind):
        held = "only on this machine" if re.search(r"nolock|local_lock=(all|flock)", where.options) else "here"
        found = f"locks exclude {held} on {where.kind}, which other machines may share"
        return Check("locks", WARNING, found, "use one store from one machine at a time, or a local disk")
    return Check("locks", OK, f"locks exclude each other on {where.kind}")


def mounted(folder: Path) -> Mounted:
    """Return the file system of a folder; kind `an unknown file system` where the system does not tell."""
    best, found = "", Mounted("an unknown file system", "")
    with suppress(OSError):
        resolved = str(folder.resolve())
        for line in Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
            _, point, kind, options, *_ = line.split(" ")
            point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), point)
            inside = resolved == point or resolved.startswith(f"{point.rstrip('/')}/")
            if inside and len(point) >= len(best):
                best, found = point, Mounted(kind, options)
    return found


def temporary() -> Check:
    """Check the temporary folder, and the variable TMPDIR."""
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        return Check("temporary", WRONG, str(error), "set TMPDIR to a folder that this user may write to")
    asked = os.environ.get("TMPDIR")
    if asked and Path(asked).absolute() != folder.absolute():
        remedy = "create it with rights to write, or unset TMPDIR"
        return Check("temporary", WARNING, f"TMPDIR={asked} cannot be written to, so {folder} is used", remedy)
    free = shutil.disk_usage(folder).free
    found = f"{folder}: {free / GB:.1f} GB free"
    if free < NO_ROOM:
        return Check("temporary", WARNING, found, "make room, or set TMPDIR to another folder")
    return Check("temporary", OK, found)


def home() -> Iterator[Check]:
    """Check that there is a home folder, where libraries keep caches and accounts."""
    remedy = "set HOME to a folder that this user may write to, or HF_HOME for weights and WANDB_DIR for W&B"
    try:
        folder = Path.home()
    except RuntimeError:
        yield Check("home", WARNING, "no home folder is known", remedy)
        return
    if not folder.is_dir():
        yield Check("home", WARNING, f"{folder} does not exist", remedy)
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Check("home", WARNING, f"{folder} cannot be written to", remedy)
    else:
        yield Check("home", OK, str(folder))
