"""Small HTML tables for notebooks. They need no style sheet and no script, and every text in them is escaped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape

from gmu_lightning.visible import visible


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Collection[str] = ()) -> str:
    """Return a table. The columns named in `numeric` are aligned to the right."""
    sides = ["right" if name in numeric else "left" for name in head]

    def line(tag: str, cells: Sequence[str]) -> str:
        filled = (f'<{tag} style="text-align: {side}">{text(cell)}</{tag}>' for side, cell in zip(sides, cells, strict=True))
        return f"<tr>{''.join(filled)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<table class="dataframe"><thead>{line("th", head)}</thead><tbody>{body}</tbody></table>'


def paragraph(words: str) -> str:
    """Return a paragraph."""
    return f"<p>{text(words)}</p>"


def bullets(lines: Iterable[str]) -> str:
    """Return a list; an empty text for no lines."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def text(words: str) -> str:
    """Return text for HTML; control characters in it are made visible."""
    return escape(visible(words))
