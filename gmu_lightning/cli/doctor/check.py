"""The result of one check, and the table of all results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from gmu_lightning.cli.pages import columns

OK: Literal["ok"] = "ok"
WARNING: Literal["warning"] = "warning"
WRONG: Literal["wrong"] = "wrong"
State = Literal["ok", "warning", "wrong"]
INDENT = 24  # of the description of a result


class Check(NamedTuple):
    """The result of one check.

    Attributes:
        name: of the checked thing, in at most ten letters.
        state: `ok`, `warning` or `wrong`. After a warning, some commands may fail or are slow. After `wrong`, they fail.
        found: a description of the thing.
        remedy: for a warning or an error. It is empty otherwise.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


def table(checks: Sequence[Check]) -> list[str]:
    """Return the lines on all checks, in at most 79 columns, and a last line with their numbers."""
    lines: list[str] = []
    for check in checks:
        lines += columns(f"{check.state:<9}{check.name}", check.found, INDENT)
        lines += columns("", f"-> {check.remedy}", INDENT) if check.remedy else []
    counts = [sum(check.state == state for check in checks) for state in (OK, WARNING, WRONG)]
    return [*lines, f"{len(checks)} checks: {counts[0]} ok, {counts[1]} with a warning, {counts[2]} wrong"]
