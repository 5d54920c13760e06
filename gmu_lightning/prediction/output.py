"""Write predictions to a file, and keep finished parts beside it, from which a killed prediction continues."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gmu_lightning.data.files.inputs import InputRow
from gmu_lightning.files import ESCAPED, acquired, csv_cell, digest, lease, write_atomically, write_table, write_text
from gmu_lightning.movie import UserError
from gmu_lightning.prediction.results import Results
from gmu_lightning.prediction.rows import row_state

LABELS = "|"  # separates genres in a CSV cell


class Count(NamedTuple):
    """A summary of the rows in a file of predictions.

    Attributes:
        rows: number of all rows.
        predicted: number of predicted rows.
        faulty: number of rows with a problem.
        first: id and problem of the first of these; None if all rows are fine.
    """

    rows: int
    predicted: int
    faulty: int
    first: tuple[str, str] | None


def write_predictions(path: Path, tables: Iterable[Any], about: Mapping[str, Any]) -> None:
    """Write tables, at least one, to a file in the format of its suffix, atomically; its folder is created.

    Args:
        path: as `check_output` accepts it.
        tables: pyarrow tables of the same columns.
        about: metadata, which only Parquet holds.
    """
    WRITERS[path.suffix.lower()](path, tables, about)


class Companion(Protocol):
    """Further files beside an output, which are made of a text for each chunk.

    Attributes:
        paths: of the files.
    """

    @property
    def paths(self) -> Sequence[Path]: ...

    def part(self, results: Results, first: int) -> Mapping[str, str]:
        """Return {suffix: text} of a chunk, whose first row has the number `first` from 0 on."""
        ...

    def join(self, texts: Callable[[str], Iterator[str]], rows: int) -> None:
        """Write the files, where `texts(suffix)` yields the texts of all chunks, of `rows` rows together."""
        ...


class Parts:
    """The finished chunks of a prediction, each a file beside the output, named by everything that determines it.

    Args:
        output: the file that is written in the end.
        state: plain values that determine the numbers, besides the rows: runs and options.
        companion: writes further files; each part of theirs stands beside the chunk's own file.
    """

    def __init__(self, output: Path, state: Sequence[Any], companion: Companion | None = None):
        self.output, self.state, self.companion = output, list(state), companion
        self.folder = output.with_name(f".{output.name}.parts")
        self.names: list[str] = []
        self.firsts = [0]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other predictions from the output within the context. Raises UserError if another one has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = lease(self.folder / ".running")
        if not acquired(lock):
            raise UserError(f"output={self.output} is being written by another prediction: wait for it, or give another")
        try:
            yield
        finally:
            if self.folder.exists() and not any(self.folder.glob("*.parquet")):
                shutil.rmtree(self.folder, ignore_errors=True)
            lock.release()

    def begin(self, rows: Sequence[InputRow]) -> bool:
        """Note the next chunk of rows, and return whether its part is finished."""
        name = f"{len(self.names):06d}-{digest([self.state, [row_state(row) for row in rows]])[:20]}.parquet"
        self.names.append(name)
        self.firsts.append(self.firsts[-1] + len(rows))
        return (self.folder / name).exists()

    def write(self, number: int, results: Results) -> None:
        """Write the part of a chunk, by its number from 0 on."""
        texts = self.companion.part(results, self.firsts[number]) if self.companion else {}
        for suffix, text in texts.items():
            write_text(self.folder / f"{self.names[number]}.{suffix}", text)
        table = results.table()  # written last, as it marks the part as finished
        write_table(self.folder / self.names[number], dict(zip(table.column_names, table.columns, strict=True)))

    def join(self, about: Mapping[str, Any]) -> Count:
        """Write the output from all parts, remove them, and return a summary of its rows. `about` is the file's metadata."""
        count = Count(0, 0, 0, None)

        def tables() -> Iterator[Any]:
            nonlocal count
            import pyarrow.parquet as pq

            for name in self.names:
                table = pq.read_table(self.folder / name).replace_schema_metadata(None)
                count = _counted(count, table)
                yield table

        write_predictions(self.output, tables(), about)
        if self.companion:
            self.companion.join(self._texts, count.rows)
        with suppress(OSError):  # a file system may keep the lock's file for a moment
            shutil.rmtree(self.folder)
        return count

    def _texts(self, suffix: str) -> Iterator[str]:
        for name in self.names:
            yield (self.folder / f"{name}.{suffix}").read_text(encoding="utf-8")


def write_parquet(path: Path, tables: Iterable[Any], about: Mapping[str, Any]) -> None:
    """Write tables to a Parquet file, atomically. `about` is JSON under the metadata key `gmu_lightning`."""
    import pyarrow.parquet as pq

    def write(temporary: Path) -> None:
        rest = iter(tables)
        first = next(rest)
        schema = first.schema.with_metadata({"gmu_lightning": json.dumps(about, ensure_ascii=False)})
        with pq.ParquetWriter(temporary, schema) as file:
            file.write_table(first.cast(schema))
            for table in rest:
                file.write_table(table.cast(schema))

    write_atomically(path, write)


def write_csv(path: Path, tables: Iterable[Any], about: Mapping[str, Any]) -> None:
    """Write tables to a CSV file, atomically, without `about`.

    Genres are joined by `|`, and texts are written as by `csv_cell`.
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors=ESCAPED) as file:
            writer = csv.writer(file)
            for n, table in enumerate(tables):
                if n == 0:
                    writer.writerow(map(csv_cell, table.column_names))
                writer.writerows(zip(*(map(_cell, column.to_pylist()) for column in table.columns), strict=True))

    write_atomically(path, write)


def write_jsonl(path: Path, tables: Iterable[Any], about: Mapping[str, Any]) -> None:
    """Write tables to a file with a JSON object on each line, atomically, without `about`."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", errors=ESCAPED) as file:
            for table in tables:
                file.writelines(f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n" for row in table.to_pylist())

    write_atomically(path, write)


WRITERS: dict[str, Callable[[Path, Iterable[Any], Mapping[str, Any]], None]] = {
    ".parquet": write_parquet,
    ".csv": write_csv,
    ".jsonl": write_jsonl,
}


def _cell(value: Any) -> Any:
    """Return a value as a CSV cell."""
    return csv_cell(LABELS.join(value) if isinstance(value, list) else value)


def _counted(count: Count, table: Any) -> Count:
    """Return a summary that includes the rows of a table."""
    ids, genres, problems = (table.column(name).to_pylist() for name in ("id", "genres", "problem"))
    faulty = [(id, problem) for id, problem in zip(ids, problems, strict=True) if problem]
    return Count(
        count.rows + len(ids),
        count.predicted + sum(found is not None for found in genres),
        count.faulty + len(faulty),
        count.first or next(iter(faulty), None),
    )
