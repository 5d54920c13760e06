"""Predict the genres of new movies with finished runs: `gmu_lightning.load(RUN).predict(movies)`."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from gmu_lightning.config.groups import trusting
from gmu_lightning.data.batching import Batches
from gmu_lightning.data.datamodule import varied_lengths
from gmu_lightning.data.files.inputs import InputRow, in_memory, input_rows, read_inputs
from gmu_lightning.experiment.restore import rule_of, tuned
from gmu_lightning.features.runner import replica
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Column, MovieBatch, UserError
from gmu_lightning.parallel import cores, in_threads
from gmu_lightning.prediction.exported import refuse_rule
from gmu_lightning.prediction.hub import is_hub_name, snapshot
from gmu_lightning.prediction.inputs import Inputs, Prepared
from gmu_lightning.prediction.results import FAULTY, Form, Results
from gmu_lightning.prediction.rows import check_column
from gmu_lightning.prediction.trained import Source, TrainedRun, check_alike, logits_of, trained_run
from gmu_lightning.run import Run
from gmu_lightning.run_files.plain import Damaged

if TYPE_CHECKING:
    from pandas import DataFrame

    from gmu_lightning.explanation.explain import Explanation, Level

logger = logging.getLogger(__name__)
CHUNK, COSTLY_CHUNK = 512, 32  # rows that are read and predicted together; the latter if a content takes seconds
PARALLEL = "TOKENIZERS_PARALLELISM"
Item = TypeVar("Item")
Result = TypeVar("Result")
Explain = Callable[[Prepared, Mapping[str, Column], Results], Sequence[Any]]


class Classifier:
    """The model of a finished run, or of several, whose mean is then predicted.

    Preprocessing, tokenisers, sizes, columns of metadata and genres are those of the runs.

    Args:
        runs: at least one. All of them have the same genres and modalities.

    Attributes:
        genres, modalities: of the first run, in its order.
        metadata: columns of metadata that the runs have learned.
        models: for each run, the models that its threads share.

    Raises:
        UserError: the runs have other genres or modalities.
    """

    def __init__(self, runs: Sequence[TrainedRun]):
        check_alike(runs)
        self.runs = tuple(runs)
        self.genres, self.modalities = runs[0].genres, runs[0].modalities
        self.metadata = tuple(dict.fromkeys(name for run in runs for name in run.metadata))
        self.inputs = Inputs([source for run in runs for source in run.sources.values()], runs[0].device)
        self.models = [_replicas(run) for run in runs]

    def __repr__(self) -> str:
        runs = ", ".join(str(run.run.folder) for run in self.runs)
        return f"Classifier({runs}: {len(self.genres)} genres from {' and '.join(self.modalities)})"

    def predict(
        self,
        movies: DataFrame | Sequence[Mapping[str, Any]] | Mapping[str, Any] | str | Path,
        *,
        threshold: float | str = 0.5,
        columns: Mapping[str, Any] | None = None,
    ) -> DataFrame:
        """Return the predictions of movies, a row for each in their order.

        The columns are those of `Results.columns`. Numbers of a row that cannot be predicted are NaN. A warning is logged if rows
        have problems.

        Args:
            movies: a DataFrame, a list of dictionaries, one dictionary, or the path of a file or folder. A row may lack any
                modality. Names of files in a table are relative to it, those in memory to the current folder.
            threshold: as in `form`.
            columns: {`id`, `text`, `image`, `video` or `audio`: name of the column}. Otherwise columns are those of the run's own
                table, or are found by common names such as `plot` and `poster`.

        Raises:
            UserError: the movies cannot be read, a column does not exist, or the threshold is no rule.
        """
        import pandas as pd

        rows, total = self.rows(movies, columns or {})
        form = self.form(threshold)
        found = [results.frame() for results in self.results(self.chunks(rows), total, form)]
        predictions = pd.concat(found, ignore_index=True)
        if faulty := int(predictions["problem"].notna().sum()):
            logger.warning(FAULTY, faulty, total)
        return predictions

    def rows(self, movies: Any, columns: Mapping[str, Any]) -> tuple[Iterator[InputRow], int]:
        """Return the rows of movies, and their number. Arguments and errors are those of `predict`."""
        in_file = isinstance(movies, str | Path)
        table = read_inputs(str(movies)) if in_file else in_memory([movies] if isinstance(movies, Mapping) else movies)
        for role, names in columns.items():
            check_column(role, names, table)
        total = len(table) + len(table.broken)
        if not total:
            raise UserError(f"{table.path} has no row: give one for each movie")
        own = self.runs[0].config.data.node
        named = own.get("columns")
        chosen = {**(named if isinstance(named, Mapping) else {}), **columns}
        unread = {str(name) for name in own.get("leave_out") or ()} - {str(name) for name in columns.values()}
        table = replace(table, columns={name: cells for name, cells in table.columns.items() if name not in unread})
        return input_rows(table, self.modalities, chosen, self.metadata, inside=in_file), total

    def form(self, threshold: float | str = 0.5) -> Form:
        """Return the form of the predictions at a threshold.

        Args:
            threshold: a number, or `val` or `val_per_genre`, which are tuned on the runs' own predictions of val.

        Raises:
            UserError: the threshold is no rule, or predictions of val are missing, damaged, or of other movies.
        """
        first = self.runs[0]
        rule = rule_of(threshold, first.config.data.task, first.run.folder)
        exact = all(run.exact for run in self.runs)
        bias = np.mean([run.bias[self.genres_of(run)] for run in self.runs], axis=0) if exact else None
        found = self._tuned(rule) if isinstance(rule, str) else rule
        return Form(self.genres, self.modalities, found, first.config.data.task, len(self.runs) > 1, bias)

    def explain(
        self,
        movie: Mapping[str, Any],
        why: Level = "modalities",
        *,
        threshold: float | str = 0.5,
        columns: Mapping[str, Any] | None = None,
    ) -> Explanation:
        """Return the reasons for the prediction of one movie. A notebook draws them like the page of the command.

        Args:
            movie: as one of the dictionaries of `predict`.
            why: `modalities`, `pieces` or `words`, as in the command.
            threshold, columns: as in `predict`.

        Raises:
            UserError: the movie cannot be read or predicted, or the runs have no reasons of this kind.
        """
        from gmu_lightning.explanation.explain import explained

        return explained(self, movie, why, columns or {}, threshold)

    def results(
        self, chunks: Iterable[Sequence[InputRow]], total: int, form: Form, explain: Explain | None = None
    ) -> Generator[Results, None, None]:
        """Yield the predictions of each chunk of rows, in order. The next chunk is prepared while one is encoded.

        While the generator lives, torch has one thread, so that numbers are the same for any number of cores.

        Args:
            chunks: of rows.
            total: number of all rows, by which the backend of frozen encoders is chosen.
            form: of the predictions.
            explain: returns the reasons of each row, which become `Results.reasons`.

        Raises:
            UserError: the runs cannot read contents of this kind.
        """
        stop = Event()

        def prepare(rows: Sequence[InputRow]) -> Prepared:
            return self.inputs.prepare(rows, stop.is_set)

        def end() -> None:
            stop.set()
            self.inputs.close()

        with undisturbed():
            torch.set_num_threads(1)
            with closing(in_advance(prepare, chunks, 0 if self.inputs.costly else 1, end)) as prepared:
                for part in prepared:
                    yield self._results(part, total, form, explain)

    def chunks(self, rows: Iterable[InputRow], costly: bool = False) -> Iterator[list[InputRow]]:
        """Yield the rows in chunks that are predicted together. `costly` says that a row takes seconds for another reason."""
        size, rest = COSTLY_CHUNK if costly or self.inputs.costly else CHUNK, iter(rows)
        while chunk := list(islice(rest, size)):
            yield chunk

    def predicted(
        self, columns: Sequence[Mapping[str, Column]], ids: Sequence[str], present: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Return for each run the logits (N, C) and exact contributions (N, M, C), with NaN for rows without a modality.

        Args:
            columns: for each run {modality: N rows}.
            ids: of the N rows.
            present: (N, M) bool.
        """
        every = zip(self.runs, self.models, columns, strict=True)
        return [self._predicted(run, models, own, ids, present) for run, models, own in every]

    def _results(self, prepared: Prepared, total: int, form: Form, explain: Explain | None) -> Results:
        columns = self.inputs.encode(prepared, total)
        present = np.stack(
            [np.all([columns[run.sources[m].key].present for run in self.runs], axis=0) for m in self.modalities], axis=1
        )
        ids = [row.id for row in prepared.rows]
        own = [{m: columns[source.key] for m, source in run.sources.items()} for run in self.runs]
        logits, contributions = zip(*self.predicted(own, ids, present), strict=True)
        problems = [_problem(why, there, self.modalities) for why, there in zip(prepared.problems, present, strict=True)]
        results = Results.mean(form, ids, present, problems, logits, contributions)
        return results if explain is None else replace(results, reasons=explain(prepared, columns, results))

    def _predicted(
        self,
        run: TrainedRun,
        models: SimpleQueue[MovieGenreClassifier],
        columns: Mapping[str, Column],
        ids: Sequence[str],
        present: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return a run's logits (N, C) and contributions (N, M, C) in our order, with NaN for rows without a modality."""
        there = torch.from_numpy(present[:, [self.modalities.index(m) for m in run.modalities]])
        rows = np.flatnonzero(present.any(axis=1))
        batches = Batches(rows, run.batch_size, varied_lengths(columns)).batches(0) if len(rows) else []

        def predict(batch: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
            model = models.get()
            try:
                inputs = {m: column.batch(batch) for m, column in columns.items()}
                return logits_of(model, MovieBatch(tuple(ids[n] for n in batch), inputs, there[batch], None), run)
            finally:
                models.put(model)

        logits = np.full((len(ids), len(run.genres)), np.nan)
        parts = np.full((len(ids), len(columns), len(run.genres)), np.nan) if run.exact else None
        workers = models.qsize()
        with closing(in_threads(workers, predict, zip(batches), window=workers + 1)) as predicted:
            for batch, (found, contributions) in zip(batches, predicted, strict=True):
                logits[batch] = found
                if parts is not None and contributions is not None:
                    parts[batch] = contributions
        genres, modalities = self.genres_of(run), [run.modalities.index(m) for m in self.modalities]
        return logits[:, genres], None if parts is None else parts[:, modalities][:, :, genres]

    def genres_of(self, run: TrainedRun) -> list[int]:
        """Return the place of each of our genres among those of a run."""
        return [run.genres.index(genre) for genre in self.genres]

    def _tuned(self, rule: str) -> float | list[float]:
        """Return the threshold that is tuned on the mean of the runs' probabilities of val. Raises UserError."""
        exported = next((run.exported for run in self.runs if run.exported is not None), None)
        if exported is not None:
            if len(self.runs) > 1:
                raise refuse_rule(rule, exported.folder)
            return exported.threshold(rule)
        found = [run.run.predictions("val") for run in self.runs]
        for run, val in zip(self.runs, found, strict=True):
            if val.genres != run.genres:
                raise Damaged(run.run / "predictions/val.parquet", "its genres are not those of best.ckpt")
            if val.ids != found[0].ids:
                raise UserError(
                    f"threshold={rule} is tuned on the mean over val, and {run.run.folder} has other movies in val than "
                    f"{self.runs[0].run.folder}: give a number, or runs of the same split"
                )
        mean = np.mean([val.probabilities[:, self.genres_of(run)] for run, val in zip(self.runs, found, strict=True)], axis=0)
        return tuned(rule, found[0].labels[:, self.genres_of(self.runs[0])], mean)


def load(
    run: os.PathLike[str] | str | Run | Sequence[os.PathLike[str] | str | Run],
    config_dir: str | None = None,
    backend: str | None = None,
    trust: Sequence[str] = (),
) -> Classifier:
    """Return the classifier of a finished run, or of the mean of several. Labels and training data are not needed.

    Random numbers, threads and environment of the process stay as they are. No code in a run's files is executed. An exported
    model is loaded only if it gives the logits of its probe.json.

    Args:
        run: a run's folder, a run that `train` or a sweep returned, the folder of an exported model, its name `USER/NAME` on the
            Hugging Face hub, or several.
        config_dir: folder of classes of your own that a run may name; None accepts the package's classes alone.
        backend: runs frozen encoders: `torch`, `openvino` or `auto`. None takes torch, or `auto` for a run that was trained with
            `encode.backend=openvino`.
        trust: dotted names of single classes of your own that a run may name.

    Raises:
        UserError: a file of a run is damaged or missing, weights are missing, or an exported model predicts other numbers here.
    """
    from gmu_lightning.prediction.probe import check_probe

    folders = [run] if isinstance(run, os.PathLike | str | Run) else list(run)
    if not folders:
        raise UserError("no run is given: give the folder of a run that finished")
    found = [one if isinstance(one, Run) else Run(_located(one)) for one in folders]
    runs: list[TrainedRun] = []
    known: dict[str, Source] = {}
    with undisturbed(), trusting(trust):
        for one in found:
            runs.append(trained_run(one, config_dir, backend, known))
            if runs[-1].exported is not None:
                check_probe(Classifier(runs[-1:]), runs[-1].exported)
            known |= {source.key: source for source in runs[-1].sources.values()}
        return Classifier(runs)


def _located(run: os.PathLike[str] | str) -> Path:
    """Return the folder of a run or an exported model, downloaded if it is named by its place on the hub. Raises UserError."""
    return snapshot(str(run)) if is_hub_name(str(run)) else Path(run).expanduser()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Restore torch's number of threads and `TOKENIZERS_PARALLELISM`, which loading a tokeniser sets, after the context."""
    threads, parallel = torch.get_num_threads(), os.environ.get(PARALLEL)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if parallel is None:
            os.environ.pop(PARALLEL, None)


def in_advance(
    work: Callable[[Item], Result], items: Iterable[Item], ahead: int, ended: Callable[[], None]
) -> Generator[Result, None, None]:
    """Yield `work(item)` of each item, in order, computed by one other thread. The thread has ended when the generator has.

    Args:
        work: may raise; its error is raised in the place of the result.
        items: taken one by one.
        ahead: how many results are computed before they are needed.
        ended: called at the end, also where the caller stops early. Work may still go on then, and `ended` has to stop it.
    """
    with ThreadPoolExecutor(1) as pool:
        started: deque[Future[Result]] = deque()
        try:
            for item in items:
                started.append(pool.submit(work, item))
                if len(started) > ahead:
                    yield started.popleft().result()
            while started:
                yield started.popleft().result()
        finally:
            ended()
            for waiting in started:
                waiting.cancel()


def _replicas(run: TrainedRun) -> SimpleQueue[MovieGenreClassifier]:
    """Return a model for each thread that predicts. A precision other than float32 sets torch's default, for all threads."""
    alone = run.device.type != "cpu" or not run.config.trainer.in_float32
    models: SimpleQueue[MovieGenreClassifier] = SimpleQueue()
    for _ in range(1 if alone else cores()):
        models.put(replica(run.model))
    return models


def _problem(problems: Sequence[str], present: np.ndarray, modalities: Sequence[str]) -> str | None:
    """Return the problems of a row as one text; None if there are none."""
    missing = [] if present.any() or problems else [f"it has no {' and no '.join(modalities)}"]
    return "; ".join([*problems, *missing]) or None
