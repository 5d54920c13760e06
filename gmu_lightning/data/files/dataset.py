"""Any table of items as a data set: each row has an id, contents in some modalities, labels and a split."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.data.dataset import DataSet
from gmu_lightning.data.draws import drawn
from gmu_lightning.data.files.folder import EXPECTED, read_folder
from gmu_lightning.data.files.labels import Labels, check_labels, no_labels
from gmu_lightning.data.files.leakage import refuse_texts, warned_leaks
from gmu_lightning.data.files.records import Records
from gmu_lightning.data.files.roles import COMMON, roles_of
from gmu_lightning.data.files.splits import DEFAULT, by_column, shares_of
from gmu_lightning.data.readers.layouts import Layout, existing, reading, usable
from gmu_lightning.data.readers.tables import RecordTable, format_of, read_records
from gmu_lightning.data.store import Store
from gmu_lightning.movie import MODALITIES, BadContent, IncompatibleChoices, Movie, UserError

logger = logging.getLogger(__name__)
Columns = Annotated[Mapping[str, Any], "names of columns by their role, such as data.columns.text=plot"]
Separator = Annotated[str, "auto, or the character between labels, such as |"]
PEEKED = 200  # rows from which the modalities of a table are known


class Files(DataSet):
    """A table of items with a row for each, or a folder with files for each.

    Args:
        root: a CSV, TSV, JSON or Parquet file, also packed as `.gz`; or a folder, as in `read_folder`.
        columns: {role: column}, as in `roles_of`.
        separator: of the labels in a text, or `auto`.
        split: `column`, shares such as `0.7/0.1/0.2`, or `auto`: the column of splits if there is one, else `0.7/0.1/0.2`. Shares
            are drawn by `split_seed`, stratified by labels, with whole groups.
        leave_out: columns that are not read.
        **common: those of every `DataSet`.
    """

    modalities: ClassVar[tuple[str, ...]] = MODALITIES

    def __init__(
        self,
        root: str | None,
        columns: Columns | None = None,
        separator: Separator = "auto",
        split: str = "auto",
        leave_out: Annotated[Sequence[str | int], "a list, such as data.leave_out=[year]"] = (),
        **common: Any,
    ):
        super().__init__(root, **common)
        self.columns, self.separator, self.split = dict(columns or {}), separator, split
        self.draws_by_seed = common.get("split_seed") is not None
        self.leave_out = tuple(map(str, leave_out))

    @classmethod
    def offers(cls, node: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the modalities that the table has columns for; all five if it cannot be read, which `open` reports."""
        path = Path(str(node.get("root") or "")).expanduser()
        with suppress(UserError, OSError, TypeError, ValueError):
            if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
                table = read_records(path, PEEKED)
                return roles_of(table, node.get("columns") or {}, tuple(map(str, node.get("leave_out") or ()))).modalities
        return cls.modalities

    def open(self, modalities: Sequence[str], store: Store) -> Layout:
        """Return the rows of the table, with their splits.

        Raises:
            UserError: the table cannot be read, has no labels, or metadata or texts reveal the labels.
            IncompatibleChoices: the table has no column for a modality.
        """
        if not self.root:
            raise UserError(
                "data=files needs data.root=PATH: a table such as movies.csv, or a folder with a file for each record."
            )
        with existing(self.root, EXPECTED) as path, reading(path):
            table = read_folder(path) if path.is_dir() else read_records(path)
            return FilesLayout(self, table, modalities)


class FilesLayout(Layout):
    """The rows of a table, opened for the chosen modalities.

    Args:
        data_set: its arguments choose columns, labels and splits.
        table: as read.
        modalities: to read.

    Raises:
        UserError, IncompatibleChoices: as in `Files.open`.
    """

    def __init__(self, data_set: Files, table: RecordTable, modalities: Sequence[str]):
        self.data_set, self.table, self.modalities = data_set, table, modalities
        self.root = table.path if table.path.is_dir() else table.path.parent
        self.name = "folder" if table.path.is_dir() else format_of(table.path).removeprefix(".")
        if not len(table):
            why = f": line {table.broken[0].line}, {table.broken[0].why}" if table.broken else ""
            raise UserError(f"{table.path} has no row that can be read{why}")
        self.roles = roles_of(table, data_set.columns, data_set.leave_out)
        absent = [m for m in modalities if m not in self.roles.modalities]
        if absent:
            raise IncompatibleChoices(_no_column(table, absent[0]))
        if not self.roles.labels:
            raise UserError(no_labels(table))
        self.records = Records.beside(table, self.roles, self.root)
        self.labels, self.unlabelled = self._labels()
        self.ids = [self.records.id(n) for n in range(len(table))]
        self.first: dict[str, int] = {}
        for n, id in enumerate(self.ids):
            self.first.setdefault(id, n)
        self.order = self.first
        self.splits = self._splits()
        self._refuse_leaks()
        self._print_choices()

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """Yield the rows of a split as movies. The audit names each row that is left out, those without a split in train."""
        if split == "train":
            for row in self.table.broken:
                place = f"{self.table.path.name}:{row.line}"
                audit.add(place, place, split, "broken_row", "removed", row.why)
        for n, id in enumerate(self.ids):
            known = self.splits.get(n)
            if known != split and not (known is None and split == "train"):
                continue
            place = self.table.place(n)
            if why := self._fault(n):
                kind = "duplicate_id" if id and self.first[id] != n else "broken_row"
                audit.add(id or place, place, split, kind, "removed", why)
                continue
            yield Movie(id, usable(self.records.sources(n, self.modalities), id, split, audit), self.labels[n])

    def record_file(self, id: str, split: str) -> str:
        """Return the file and line of a record."""
        return self.table.place(self.first[id]) if id in self.first else self.table.path.name

    def _fault(self, n: int) -> str:
        """Return the reason why row n is left out, or an empty text."""
        if not self.ids[n]:
            return f"column {self.roles.id} is empty: give each row a name of its own"
        if self.first[self.ids[n]] != n:
            return f"already in {self.table.place(self.first[self.ids[n]])}"
        if n in self.unlabelled:
            return self.unlabelled[n]
        return "" if self.splits.get(n) else f"column {self.roles.split} is empty: write train, val or test"

    def _labels(self) -> tuple[dict[int, tuple[str, ...]], dict[int, str]]:
        """Return {row: its labels}, and {row: why its labels cannot be read}."""
        data_set = self.data_set
        labels = Labels(self.table, self.roles.labels, data_set.separator, data_set.task)
        self.separator = labels.separator
        found: dict[int, tuple[str, ...]] = {}
        wrong: dict[int, str] = {}
        for n in range(len(self.table)):
            try:
                found[n] = labels.of(n)
            except ValueError as error:
                wrong[n] = str(error)
        if not any(found.values()) and wrong:
            n, why = next(iter(wrong.items()))
            raise UserError(f"{self.table.path}: no row has labels that can be read; {self.table.place(n)}: {why}")
        check_labels(labels, {n: names for n, names in found.items() if names})
        return found, wrong

    def _splits(self) -> dict[int, str | None]:
        wanted, roles, table = self.data_set.split, self.roles, self.table
        if wanted == "column" and roles.split is None:
            raise UserError(
                f"data.split=column, but {table.path} has no column of splits: name it, as in data.columns.split=NAME, or draw "
                f"them, as in data.split={DEFAULT}"
            )
        rows = [n for n, id in enumerate(self.ids) if id and self.first[id] == n and n in self.labels]
        if wanted == "column" or (wanted == "auto" and roles.split is not None):
            assert roles.split is not None
            if self.data_set.draws_by_seed:
                raise UserError(
                    f"data.split_seed={self.data_set.split_seed} draws nothing, because column {roles.split} of {table.path} has "
                    f"the splits: leave it out, or draw splits, as in data.split={DEFAULT}"
                )
            return by_column(table, roles.split, rows)
        shares = shares_of(DEFAULT if wanted == "auto" else wanted)
        groups = table.columns[roles.group] if roles.group else ()
        of_row = {n: str(groups[n]) for n in rows if groups and groups[n] not in (None, "")}
        return {**drawn({n: self.labels[n] for n in rows}, of_row, shares, self.data_set.split_seed)}

    def _refuse_leaks(self) -> None:
        train = [n for n, split in self.splits.items() if split == "train" and self.labels[n]]
        genres = {n: self.labels[n] for n in train}
        if "text" in self.modalities:
            texts = {}
            for n in train:
                with suppress(BadContent):
                    texts[n] = self.records.content(n, "text")
            refuse_texts(self.table.path, self.roles.text, texts, genres)
        if "metadata" in self.modalities:
            rows = {}
            for n in train:
                with suppress(BadContent):
                    rows[str(n)] = self.records.content(n, "metadata")
            names = {str(n): labels for n, labels in genres.items()}
            for sentence in warned_leaks(self.table.path, rows, names, self.data_set.leave_out):
                self.warn(sentence)

    def _print_choices(self) -> None:
        roles, words = self.roles, []
        for role in ("id", *self.modalities, "labels"):
            columns = getattr(roles, role)
            named = ", ".join(columns[:5] if isinstance(columns, tuple) else [columns or "row number"])
            named += f" and {len(columns) - 5} more" if isinstance(columns, tuple) and len(columns) > 5 else ""
            parts = f" (separated by {self.separator})" if role == "labels" and self.separator else ""
            words.append(f"{role} from {named}{parts}")
        by = f"column {roles.split}" if self.data_set.split in ("auto", "column") and roles.split else ""
        shares = DEFAULT if self.data_set.split == "auto" else self.data_set.split
        words.append(f"split by {by}" if by else f"split drawn {shares}{f', groups by {roles.group}' if roles.group else ''}")
        logger.warning("%s: %s; data.columns.ROLE=COLUMN chooses others", self.table.path.name, "; ".join(words))


class FilesDataModule(MovieDataModule):
    """Batches of a table, with the arguments of `Files` and of `MovieDataModule`."""

    reads = Files


def _no_column(table: RecordTable, modality: str) -> str:
    """Return the sentence for a modality that has no column."""
    names = ", ".join(list(table.columns)[:12]) + (", ..." if len(table.columns) > 12 else "")
    common = f" (common names are {', '.join(COMMON[modality][:4])})" if modality in COMMON else ""
    files = "" if modality in ("text", "metadata") else ", with paths of files"
    return (
        f"{table.path} has no column for {modality}{common}, only {names}: name it{files}, as in "
        f"data.columns.{modality}=NAME, or choose other modalities"
    )
