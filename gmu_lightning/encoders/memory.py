"""What is slow to find out about pretrained weights (a large file's hash, what timm says of them), kept for the next process.

Each thing is a small JSON file named by all that it depends on, so nothing here is ever out of date. Where nobody called
`remember_in`, everything is found out anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmu_lightning.files import digest, write_json


@dataclass(frozen=True)
class _Place:
    folder: Path
    read_only: bool


_places: list[_Place] = []  # the one that is used now, or none


def remember_in(folder: Path | None, read_only: bool = False) -> None:
    """From now on this process reads and (unless `read_only`) writes there; None: nowhere."""
    _places[:] = [] if folder is None else [_Place(folder, read_only)]


def remembered(what: list[Any], find_out: Callable[[], Any]) -> Any:
    """`find_out()`, plain JSON, or what it was when it was asked before.

    Args:
        what: plain values: a word for the question, and all that its answer depends on.

    Raises:
        Whatever `find_out` does, which is not remembered.
    """
    if not _places:
        return find_out()
    place = _places[0]
    file = place.folder / f"{digest(what)[:20]}.json"
    with suppress(OSError, ValueError):  # nobody asked yet, or the file is damaged
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["what"] == what:
            return kept["answer"]
    answer = find_out()
    if not place.read_only:
        with suppress(OSError):  # a store that cannot be written says so where something is lost by it
            write_json(file, {"what": what, "answer": answer})
    return answer
