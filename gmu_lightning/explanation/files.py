"""The two files of reasons beside the output of a prediction: `<output>.why.jsonl` and `<output>.why.html`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gmu_lightning.explanation.page import card, page
from gmu_lightning.explanation.reasons import line_of
from gmu_lightning.files import ESCAPED, write_atomically, write_text
from gmu_lightning.prediction.results import Results

MOST_CARDS = 50  # movies on the page, which embeds their posters
LINES, CARDS = "why.jsonl", "why.cards.jsonl"  # suffixes of the parts


class ReasonFiles:
    """Write the reasons of a prediction.

    Args:
        output: file of the prediction.
        runs: folders of the runs, for the page.

    Attributes:
        paths: of both files.
    """

    def __init__(self, output: Path, runs: Iterable[object]):
        self.lines, self.page = (output.with_name(f"{output.name}.why.{suffix}") for suffix in ("jsonl", "html"))
        self.paths = (self.lines, self.page)
        self.runs = [str(run) for run in runs]

    def part(self, results: Results, first: int) -> dict[str, str]:
        """Return {suffix: text} of the parts of a chunk, whose first row has the number `first` from 0 on.

        Only the first `MOST_CARDS` rows have cards.
        """
        rows = list(zip(results.reasons, results.ids, results.problems, strict=True))
        cards = [card(*row) for row in rows[: max(0, MOST_CARDS - first)]]
        return {LINES: "".join(line_of(*row) for row in rows), CARDS: "".join(f"{json.dumps(one)}\n" for one in cards)}

    def join(self, texts: Callable[[str], Iterator[str]], rows: int) -> None:
        """Write both files.

        Args:
            texts: returns the texts of all parts with a suffix, in their order.
            rows: number of rows of the prediction.
        """

        def write(temporary: Path) -> None:
            with temporary.open("w", encoding="utf-8", errors=ESCAPED) as file:
                file.writelines(texts(LINES))

        write_atomically(self.lines, write)
        cards = [json.loads(line) for text in texts(CARDS) for line in text.splitlines()]
        write_text(self.page, page(cards, rows, self.runs))
