"""Docstrings here are plain text with code in single backticks: turn them into reStructuredText before napoleon reads them."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

NAMES = re.compile(r"^ {4,}\w+(?:, \w+)+(?=: )", re.M)  # one line of Args: or Attributes: that describes several names
RETURNED = re.compile(r"^(Returns:\n +)", re.M)
RANGE = re.compile(r"~?typing\.Annotated\[([\w.~]+), [^\]]*\]")
CODE_OR_MARK = re.compile(r"`+([^`]*)`+|([*|_\\])")


def to_rst(_app: Sphinx, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Make code of words in backticks, escape marks elsewhere, and keep napoleon from splitting sentences at colons."""
    text = CODE_OR_MARK.sub(
        lambda found: f"``{found[1].strip()}``" if found[1] is not None else f"\\{found[2]}", "\n".join(lines)
    )
    # Napoleon takes the words before the first colon of a property or a result for its type, so a colon is put first.
    text = NAMES.sub(lambda found: found[0].replace(", ", "/"), text)
    text = RETURNED.sub(r"\1: ", text)
    lines[:] = text.split("\n")
    if what in ("property", "attribute") and lines[0]:
        lines[0] = f": {lines[0]}"


def without_ranges(
    _app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Return a signature whose types have no ranges: `int` in place of `Annotated[int, Ge(ge=1)]`."""
    return RANGE.sub(r"\1", signature) if signature else signature, returned


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect before napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", to_rst, priority=400)
    app.connect("autodoc-process-signature", without_ranges)
    return {"parallel_read_safe": True}
