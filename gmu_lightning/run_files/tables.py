"""predictions/<split>.parquet: what it says of itself and the types of its columns, checked before a column is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning.movie import MODALITIES
from gmu_lightning.run_files.content import Damaged, check_regular
from gmu_lightning.run_files.plain import json_of
from gmu_lightning.run_files.shapes import (
    Unexpected,
    either,
    mapping,
    maybe,
    number,
    one_of,
    record,
    same_keys,
    sequence,
    word,
)

MOST_BYTES = 4 * 10**9  # on disk, and of all columns in memory
MOST_MOVIES = 10**7
MOST_GENRES = 10**4
KEY = b"gmu_lightning"
SCORE = number(0, 1)
ABOUT = record(
    {
        "genres": sequence(word, least=1, most=MOST_GENRES, unique=True),
        "modalities": sequence(one_of(*MODALITIES), least=1, most=len(MODALITIES), unique=True),
        "threshold": either(sequence(SCORE), SCORE),
        "open_threshold": maybe(SCORE),
        "bias": maybe(mapping(number())),
        "data_fingerprint": mapping(word),
    }
)


@dataclass(frozen=True)
class Table:
    """A file of predictions.

    Attributes:
        about: its metadata: genres, modalities, thresholds, bias, data_fingerprint.
        columns: {name: an array of N values}; the optional ones may be missing.
    """

    about: dict[str, Any]
    columns: dict[str, np.ndarray]


def predictions_table(path: Path) -> Table:
    """Return the table in a file of predictions. Raises FileNotFoundError or Damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_regular(path, MOST_BYTES)
    try:
        with pq.ParquetFile(str(path)) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            about = _about(schema.metadata or {})
            names = _checked_names(schema, about)
            groups = range(file.metadata.num_row_groups)
            _check_size(rows, len(names), sum(file.metadata.row_group(n).total_byte_size for n in groups))
            table = file.read(columns=names)
        columns = {name: _array(table.column(name), name) for name in names}
    except Unexpected as error:
        raise Damaged(path, str(error)) from error
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise Damaged(path, "it is no parquet file that can be read") from error
    return Table(about, columns)


def _check_size(rows: int, columns: int, written: int) -> None:
    if not 1 <= rows <= MOST_MOVIES or rows * columns * 8 > MOST_BYTES:
        raise Unexpected(f"it has {rows:,} rows, and at least one row and at most {MOST_MOVIES:,} are expected")
    if written > MOST_BYTES:
        raise Unexpected(f"its columns take more than {MOST_BYTES:,} bytes")


def _about(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    if KEY not in metadata:
        raise Unexpected(f"it lacks the metadata {KEY.decode()}")
    try:
        about = json_of(metadata[KEY].decode("utf-8"))
    except UnicodeDecodeError:
        raise Unexpected("its metadata are no JSON object") from None
    ABOUT(about, "its metadata")
    if about["bias"] is not None:
        same_keys(about["bias"], about["genres"], "bias")
    if isinstance(about["threshold"], list) and len(about["threshold"]) != len(about["genres"]):
        raise Unexpected(f"threshold has {len(about['threshold'])} entries and there are {len(about['genres'])} genres")
    return about


def _checked_names(schema: Any, about: dict[str, Any]) -> list[str]:
    """Return the columns to be read, each there once and of the right type. A group of optional ones is there as a whole."""
    import pyarrow.types as of

    def is_text(kind: Any) -> bool:
        return of.is_string(kind) or of.is_large_string(kind)

    genres, modalities = about["genres"], about["modalities"]
    both = [f"{m}/{g}" for m in modalities for g in genres]
    groups = [
        (["id", "split"], is_text, "text", True),
        ([f"present/{m}" for m in modalities], of.is_boolean, "true or false", True),
        ([f"label/{g}" for g in genres], of.is_boolean, "true or false", True),
        ([f"logit/{g}" for g in genres], of.is_floating, "numbers", True),
        ([f"gate/{m}" for m in modalities], of.is_floating, "numbers", False),
        ([f"gate_open/{m}" for m in modalities], of.is_floating, "numbers", False),
        ([f"gate/{name}" for name in both], of.is_floating, "numbers", False),
        ([f"contribution/{name}" for name in both], of.is_floating, "numbers", False),
    ]
    names: list[str] = []
    for columns, fits, words, required in groups:
        if not required and not any(name in schema.names for name in columns):
            continue
        for name in columns:
            if schema.names.count(name) != 1:
                raise Unexpected(f"it {'lacks' if name not in schema.names else 'has twice'} the column {name}")
            if not fits(schema.field(name).type):
                raise Unexpected(f"its column {name} holds {str(schema.field(name).type)[:40]}, and {words} are expected")
        names += columns
    return names


def _array(column: Any, name: str) -> np.ndarray:
    if column.null_count:
        raise Unexpected(f"its column {name} has {column.null_count:,} empty cells")
    values = np.array(column.to_pylist(), dtype=object) if name in ("id", "split") else column.to_numpy()
    if name == "id" and len(set(values)) < len(values):
        raise Unexpected("its column id names a movie twice")
    if name == "split" and len(set(values)) > 1:
        raise Unexpected("its column split names more than one split")
    return values


def stacked(columns: dict[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Return (N, K) of K columns."""
    return np.stack([columns[name] for name in names], axis=1)
