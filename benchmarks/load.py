"""Measure the share of the cores' time that other processes take meanwhile, from /proc of Linux.

It is the time that all cores worked, minus the CPU time of this process and its descendants. Time that a virtual machine lost to
others on the same hardware (steal) counts as theirs.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

STAT = Path("/proc/stat")
WORKING = (0, 1, 2, 5, 6, 7)  # fields of the first line of /proc/stat: user, nice, system, irq, softirq, steal
DISTURBED = 0.05  # a share of the cores' time above which a measurement is named
SHORTEST = 0.5  # seconds of a measurement, because the system counts in hundredths
SUBREAPER = 36  # of prctl


class Process(NamedTuple):
    """One process in a snapshot.

    Attributes:
        parent: its number.
        ended: whether it has ended and waits to be reaped.
        seconds: CPU seconds of it and of its reaped children.
    """

    parent: int
    ended: bool
    seconds: float


def processes() -> dict[int, Process]:
    """Return {number: process} of all processes."""
    tick = os.sysconf("SC_CLK_TCK")
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):  # it ended meanwhile
            continue
        found[int(stat.parent.name)] = Process(int(fields[1]), fields[0] == "Z", sum(map(int, fields[11:15])) / tick)
    return found


def family(pid: int) -> dict[int, float]:
    """Return a process and all its descendants, with the CPU seconds of each and of its reaped children."""
    known = processes()
    members = {pid}
    while more := {child for child, one in known.items() if one.parent in members} - members:
        members |= more
    return {member: known[member].seconds for member in members if member in known}


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent has ended, so that their CPU time can be counted."""
    with suppress(OSError, AttributeError):  # another system than Linux
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def children() -> set[int]:
    """Return the numbers of this process's children."""
    return {number for number, one in processes().items() if one.parent == os.getpid()}


def own_seconds() -> float:
    """Return the CPU seconds of this process and all its descendants, of those that have ended too."""
    return sum(family(os.getpid()).values())


def working_seconds() -> float:
    """Return the seconds that all cores have worked since the system started, summed over cores."""
    fields = STAT.read_text().split("\n", 1)[0].split()[1:]
    return sum(int(fields[n]) for n in WORKING) / os.sysconf("SC_CLK_TCK")


class Watch:
    """Measure the share of other processes while inside.

    Attributes:
        share: of the cores' time; None on another system than Linux, and for less than `SHORTEST` seconds.
    """

    share: float | None = None

    def __enter__(self) -> Watch:
        self._start = self._now() if STAT.exists() else None
        return self

    def __exit__(self, *_: Any) -> None:
        if self._start is None:
            return
        wall, working, own = (after - before for after, before in zip(self._now(), self._start, strict=True))
        if wall >= SHORTEST:
            self.share = max(0.0, working - own) / (wall * (os.cpu_count() or 1))

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), working_seconds(), own_seconds()


class Rounds(dict[str, list[Any]]):
    """{variant: results}, one result per round.

    Attributes:
        others: {variant: shares}, the share of other processes during each result.
    """

    def __init__(self, names: Mapping[str, Any]):
        super().__init__({name: [] for name in names})
        self.others: dict[str, list[float | None]] = {name: [] for name in names}

    def __ior__(self, other: Any) -> Rounds:
        """Add the variants of other rounds."""
        self.update(other)
        self.others |= other.others
        return self


def others_in(raw: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Return {variant: shares} of every `Rounds` in a report's raw measurements."""
    found = dict(raw.others) if isinstance(raw, Rounds) else {}
    for kind, part in raw.items():
        if isinstance(part, Rounds):
            found |= {f"{kind}: {name}": shares for name, shares in part.others.items()}
    return found


def others_in_words(others: Mapping[str, list[float | None]]) -> str:
    """Return a sentence on the load of other processes. It names the rounds, from 1, in which they took more than `DISTURBED`."""
    shares = [share for of_variant in others.values() for share in of_variant if share is not None]
    if not shares:
        return "The load of other processes was not measured."
    line = (
        f"Other processes took {statistics.median(shares):.1%} of the cores' time in the median, and at most {max(shares):.1%}."
    )
    above = [
        f"{name} in round {n} ({share:.1%})"
        for name, of_variant in others.items()
        for n, share in enumerate(of_variant, 1)
        if share is not None and share > DISTURBED
    ]
    if not above:
        return line
    return f"{line} **Disturbed, as they took more than {DISTURBED:.0%}**: {', '.join(above)}."
