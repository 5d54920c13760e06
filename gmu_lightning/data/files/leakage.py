"""Target leakage in a table: refuse columns that hold the labels, and name columns that tell them otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gmu_lightning.data.leakage import FEWEST, SAME, audience_columns, leaks, leaving_out, refuse
from gmu_lightning.movie import UserError


def warned_leaks(
    path: Path, rows: Mapping[str, Mapping[str, Any]], labels: Mapping[str, Sequence[str]], left_out: Sequence[str]
) -> list[str]:
    """Return warnings about columns of metadata that a limit or an audience connects with the labels.

    Args:
        path: of the table, for the sentences.
        rows: {id: {column: cell}} of train.
        labels: {id: labels} of train.
        left_out: columns that are not read.

    Raises:
        UserError: columns equal or contain labels.
    """
    found = leaks(rows, labels, by_name=False)
    refuse({name: leak for name, leak in found.items() if not leak.is_limit}, path, left_out)
    limits = {name: leak.why for name, leak in found.items() if leak.is_limit}
    warnings = []
    if limits:
        named = ", ".join(f"column {name} {why}" for name, why in limits.items())
        warnings.append(f"near_labels: {named}. Type {leaving_out(left_out, limits)} to predict without.")
    if late := audience_columns(next(iter(rows.values()), {})):
        named = ", ".join(late)
        warnings.append(
            f"audience: {named} are known only once an item is out. Type {leaving_out(left_out, late)} to predict without them."
        )
    return warnings


def refuse_texts(path: Path, columns: Sequence[str], texts: Mapping[int, str], labels: Mapping[int, Sequence[str]]) -> None:
    """Raise UserError if nearly all texts of train name all of their labels.

    Args:
        path: of the table, for the sentence.
        columns: of the texts.
        texts: {row: text} of train.
        labels: {row: labels} of train.
    """
    known = [(text.casefold(), [name.casefold() for name in labels[n]]) for n, text in texts.items() if labels.get(n)]
    if len(known) < FEWEST or len({name for _, names in known for name in names}) < 2:
        return
    named = sum(all(_has_word(text, name) for name in names) for text, names in known)
    if named >= SAME * len(known):
        raise UserError(
            f"{path}: column {' and '.join(columns)} names the labels in {100 * named / len(known):.0f} % of train, so "
            "it is no input: give another column as data.columns.text"
        )


def _has_word(text: str, name: str) -> bool:
    """Return whether a label stands in a text as a word of its own; both are in lower case."""
    return name in text and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None
