"""Text from strangers on a terminal, in a log or in a figure: control characters are shown, and never act."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# C0 and C1 controls but tab and newline, line separators, overrides of the writing direction, halves of a character.
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return `text` with each control character as its escape, such as `\x1b`."""
    return HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def drawable(text: str) -> str:
    """Return `text` for a figure: visible, and a dollar sign begins no formula."""
    return visible(text).replace("$", r"\$")


class VisibleStream:
    """A text stream that shows control characters instead of sending them.

    Args:
        stream: receives the text. It is what rich draws its progress on, whose own sequences are wanted.
    """

    def __init__(self, stream: Any):
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Write the visible text; a character that the stream's encoding lacks becomes an escape too."""
        stream, shown = self.rich_proxied_file, visible(text)
        try:
            stream.write(shown)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def guard_streams() -> None:
    """Make stdout and stderr visible streams, for the rest of this process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, VisibleStream):
            setattr(sys, name, VisibleStream(stream))


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Make stdout and stderr visible streams while inside."""
    before = sys.stdout, sys.stderr
    guard_streams()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def plain_streams() -> Iterator[None]:
    """Take the guard away while inside, for a library's progress that moves the cursor."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (getattr(stream, "rich_proxied_file", stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
