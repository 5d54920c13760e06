"""Show the control characters in text from strangers, so that they have no effect on a terminal, in a log or in a figure.

A visible stream also hides secrets.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gmu_lightning.confidential import without_any

# C0 and C1 controls except tab and newline, line separators, overrides of the writing direction, lone surrogates.
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return `text` with escapes, such as `\x1b`, for control characters, direction marks and lone surrogates.

    Tab and newline stay.
    """
    return HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def drawable(text: str) -> str:
    """Return `text` for a figure: control characters are visible, and dollar signs are escaped."""
    return visible(text).replace("$", r"\$")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class VisibleStream:
    """A text stream that sends `visible` text without secrets, so that control characters have no effect.

    Args:
        stream: receives the text. rich finds it by the attribute `rich_proxied_file`, and writes its progress to it directly.
    """

    def __init__(self, stream: Any):
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Write the visible text, with escapes for characters that the stream's encoding lacks. Return the length of `text`."""
        stream, shown = self.rich_proxied_file, visible(without_any(text))
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
    """Replace stdout and stderr by visible streams, for the rest of this process. Skip one that is missing or visible already."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, VisibleStream):
            setattr(sys, name, VisibleStream(stream))


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Replace stdout and stderr by visible streams within the context."""
    before = sys.stdout, sys.stderr
    guard_streams()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def plain_streams() -> Iterator[None]:
    """Restore the original streams within the context, for a library's progress that moves the cursor."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (getattr(stream, "rich_proxied_file", stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
