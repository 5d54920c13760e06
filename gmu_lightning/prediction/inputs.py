"""Read the contents of some rows as a run's encoders need them, in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import torch

from gmu_lightning.data.contents import stored
from gmu_lightning.data.files.inputs import InputRow
from gmu_lightning.data.ragged import Ragged
from gmu_lightning.data.store import PreparedColumn
from gmu_lightning.encoders.metadata import TablePreparation
from gmu_lightning.encoders.vector import ArrayPreparation
from gmu_lightning.features.columns import FeatureColumn, encoded, sample_size
from gmu_lightning.features.runner import Runner, Sample, runner, worth_converting
from gmu_lightning.movie import ArrayFile, BadContent, Cached, Column, UserError, file_of
from gmu_lightning.parallel import cores, in_threads, nothing
from gmu_lightning.prediction.trained import Source

logger = logging.getLogger(__name__)
SHOWN = 200  # characters of a problem


class Prepared(NamedTuple):
    """Some rows with their contents prepared.

    Attributes:
        rows: N of them.
        columns: {key of a preparation: column of the N rows}.
        problems: for each row, the reasons why contents of it are not used.
    """

    rows: Sequence[InputRow]
    columns: Mapping[str, PreparedColumn]
    problems: Sequence[Sequence[str]]


class Inputs:
    """Prepare and encode rows for one or several runs. Equal work of two runs is done once.

    Args:
        sources: ways to read modalities, of all runs.
        device: of the encoders.
    """

    def __init__(self, sources: Iterable[Source], device: torch.device):
        self.sources = {source.key: source for source in sources}
        self.preparations = {source.stored: source for source in self.sources.values()}
        self.device = device
        self._runners: dict[tuple[str, bool], Runner] = {}

    @property
    def costly(self) -> bool:
        """Whether one content takes seconds to prepare."""
        return any(getattr(source.preparation, "costly", False) for source in self.preparations.values())

    def prepare(self, rows: Sequence[InputRow], stopped: Callable[[], bool] = lambda: False) -> Prepared:
        """Return the rows with their contents prepared, on all cores.

        A content that cannot be used is absent, and a problem of its row.

        Args:
            rows: to be prepared.
            stopped: returns whether the rows are not needed any more.

        Raises:
            UserError: a run reads extracted features, and a row has a raw content.
            OSError: the machine is at fault.
            CancelledError: `stopped` returned True.
        """
        problems: list[list[str]] = [[row.problem] if row.problem else [] for row in rows]
        work = [(source, row.content.get(source.modality)) for source in self.preparations.values() for row in rows]
        columns = {}
        with closing(in_threads(cores(), _stored, work)) as arrays:
            for key, source in self.preparations.items():
                found: list[np.ndarray | None] = []
                for n, row in enumerate(rows):
                    if stopped():
                        raise CancelledError
                    array = next(arrays)
                    if isinstance(array, BadContent):
                        problem = _described(source.modality, row.content[source.modality], array)
                        problems[n] += [] if problem in problems[n] else [problem]
                    found.append(None if isinstance(array, BadContent) else array)
                columns[key] = PreparedColumn(key, source.preparation, Ragged.of(found), ())
        return Prepared(rows, columns, problems)

    def encode(self, prepared: Prepared, total: int) -> dict[str, Column]:
        """Return {key of a source: column of the rows}, each as `encoded`."""
        return {key: self.encoded(source, prepared.columns[source.stored], total) for key, source in self.sources.items()}

    def encoded(self, source: Source, column: PreparedColumn, total: int) -> Column:
        """Return the features of a frozen encoder, or the prepared inputs of any other.

        Args:
            source: way to read the modality.
            column: of the prepared rows.
            total: number of rows of the whole prediction, by which a backend is chosen.

        Raises:
            UserError: the backend cannot run the encoder.
        """
        return column if source.network is None else self._features(source, column, total)

    def close(self) -> None:
        """End the processes of preparations, and free their networks."""
        for source in self.preparations.values():
            getattr(source.preparation, "close", nothing)()

    def _features(self, source: Source, column: PreparedColumn, total: int) -> FeatureColumn:
        assert source.network is not None
        network, rows = source.network, np.flatnonzero(column.present)
        vectors = np.zeros((len(column.present), network.dim), dtype=np.float32)
        tokens: list[np.ndarray | None] = [None] * len(vectors)
        running = None
        if len(rows):
            running = self._runner(source, column, rows, total)
            for batch, features in encoded(running, column, rows, self.device):
                vectors[batch] = features.vector.numpy()
                for row, n in enumerate(batch if source.tokens else ()):
                    tokens[n] = features.real_tokens(row).numpy()
        how = (running.backend, running.precision) if running else ("torch", "float32")
        parameters = sum(p.numel() for p in network.parameters())
        cached = Cached(parameters, *how, False, vectors.nbytes)
        sequences = Ragged.of(tokens) if source.tokens and len(rows) else None
        return FeatureColumn(source.key, source.preparation, torch.from_numpy(vectors), column.present, cached, sequences)

    def _runner(self, source: Source, column: PreparedColumn, rows: np.ndarray, total: int) -> Runner:
        """Return the runner of a source's network."""
        assert source.network is not None
        key = source.key, total >= worth_converting(source.network, cores())
        if key not in self._runners:

            def sample() -> Sample:
                """Return the first rows, and a placeholder, whose length is 1."""
                count = sample_size(column, rows, self.device)
                return Sample(column.batch(np.resize(rows, count).tolist()), source.preparation.batch([None], False))

            self._runners[key] = runner(
                source.network, source.encoding, self.device, sample, contents=total, cores=cores(), sequences=source.tokens
            )
            if self._runners[key].fell_back:
                logger.warning("%s is encoded by %s", source.modality, self._runners[key].note)
        return self._runners[key]


def _stored(source: Source, content: Any) -> np.ndarray | BadContent | None:
    """Return the array of a content, None if it is absent, or the reason why there is none. Raises UserError."""
    if content is None:
        return None
    if reads_features(source.preparation) and not isinstance(content, np.ndarray | ArrayFile):
        given = file_of(content) or f"a {type(content).__name__}"
        raise UserError(
            f"the run was trained on extracted features of {source.modality}, so it cannot read {given}: give arrays, as in .npy "
            f"files, or a run that was trained on raw {source.modality}"
        )
    return stored(source.preparation, source.modality, content)


def reads_features(preparation: Any) -> bool:
    """Return whether a preparation reads arrays of features, and not raw contents."""
    known = preparation.learned if isinstance(preparation, TablePreparation) else preparation
    return isinstance(known, ArrayPreparation)


def _described(modality: str, content: Any, problem: BadContent) -> str:
    file = file_of(content)
    return f"{modality}{f' {file}' if file else ''} is not used: {problem.detail}"[:SHOWN]
