"""Split a text into sentences, of which each keeps its place in the text."""

from __future__ import annotations

import re

# A sentence ends with one or more marks, closing quotes and brackets, and then white space. Marks of East Asia need no space.
END = re.compile(r"""(?:[.!?…]+["'”’»)\]]*(?=\s)|[。！？｡]+["'”’»」』）)\]]*)\s*|\s*\n\s*\n\s*""")
ABBREVIATION = re.compile(
    r"mr|mrs|ms|dr|prof|st|jr|sr|lt|col|gen|capt|sgt|cmdr|maj|rev|hon|gov|sen|rep|pres|messrs|mme|mlle|"
    r"vs|vol|pt|ca|approx|e\.g|i\.e|a\.m|p\.m|u\.s|u\.k|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec"
)
BEFORE = re.compile(r"[\w.'’-]+$")  # the word that a full stop follows, with the stops inside it


def sentences(text: str) -> list[tuple[int, int]]:
    """Return start and end of each sentence, in code points.

    The parts follow each other without a gap, and each includes the white space behind it. Their texts joined are the text.
    A text without a visible character has none.
    """
    if not text.strip():
        return []
    starts = [0]
    for found in END.finditer(text):
        end = found.end()
        if end < len(text) and text[starts[-1] : found.start()].strip() and _ends(text, found):
            starts.append(end)
    return list(zip(starts, [*starts[1:], len(text)], strict=True))


def _ends(text: str, found: re.Match[str]) -> bool:
    """Return whether a match of `END` ends a sentence, and is no abbreviation, initial or ellipsis within one."""
    mark, rest = found[0].strip(), text[found.end() :]
    if not mark or mark[0] in "。！？｡":
        return True
    if rest[0].islower():  # "etc. and", "Wait... what"
        return False
    if not mark.startswith(".") or len(mark) > 1:
        return True
    word = BEFORE.search(text[: found.start()])
    last = word[0].lower() if word else ""
    initial = len(last) == 1 and last.isalpha() and word is not None and word[0].isupper() and word[0] != "I"
    return not initial and ABBREVIATION.fullmatch(last) is None
