"""The work of `python -m gmu_lightning.adopt`: write predictions that were made elsewhere as run folders."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning import __version__
from gmu_lightning.adoption.runs import SCORED, AdoptedRun, files_in, runs_of
from gmu_lightning.adoption.tables import PredictedTable
from gmu_lightning.config.groups import choices_of
from gmu_lightning.config.options import AdoptConfig
from gmu_lightning.config.resolve import known_modalities
from gmu_lightning.config.schema import DataConfig, read_part
from gmu_lightning.data.store import Store
from gmu_lightning.data.table import MovieTable
from gmu_lightning.experiment.results import scores_in_words, split_scores, write_gates
from gmu_lightning.experiment.train import keep_audit, log_audit
from gmu_lightning.files import file_digest, write_json
from gmu_lightning.metrics import TUNED
from gmu_lightning.movie import UserError
from gmu_lightning.report.caveats import HARD
from gmu_lightning.report.scoring import UNKNOWN_OF_ADOPTED
from gmu_lightning.report.settings import FEWEST_SEEDS
from gmu_lightning.run import Predictions, Run
from gmu_lightning.sweep.job import sentence_of, state_of

logger = logging.getLogger(__name__)
OF_BATCHES = ("batch_size", "token_budget", "workers")  # options of data that only training reads
LONGEST = 60  # letters of a name


@dataclass(frozen=True)
class Request:
    """The arguments of one command.

    Attributes:
        options: of the command.
        files: files of predictions, or folders with such files.
        data: the resolved node, with an absolute root.
        data_set: the choice of the group `data`.
        store: the folder of prepared contents.
        folder: of the run. Several runs have a folder each in it.
        overrides: as typed.
        config_dir: the folder of the user's own classes, or None.
    """

    options: AdoptConfig
    files: Sequence[Path]
    data: Mapping[str, Any]
    data_set: str
    store: Path
    folder: Path
    overrides: Sequence[str]
    config_dir: str | None = None


def adopt(request: Request) -> list[Run]:
    """Write one run for each seed of the predictions, and return the runs.

    All files are read and checked before the first run is written. If the data are refused, only audit.json is written.

    Raises:
        UserError: the data or the predictions are wrong, or a run's folder holds a finished run.
    """
    check_name(request.options.name, request.config_dir)
    modalities = known_modalities(request.options.modalities)
    node = {key: value for key, value in request.data.items() if key not in OF_BATCHES}
    files = files_in(request.files)
    with keep_audit(request.folder):
        table = _load(node, request, modalities)
        table.raise_if_strict()
    predicted = [PredictedTable.of(path, table.vocabulary.names, table.data_set.task) for path in files]
    for source in predicted:
        logger.warning("%s: %s", source.path.name, source.read)
    found = runs_of(predicted, table, request.options.seed)
    log_audit(table, table.warnings)
    several = len(found) > 1
    runs = [Run(request.folder / f"seed{one.seed}" if several else request.folder) for one in found]
    for run in runs:
        if run.status.get("state") == "finished":
            raise UserError(f"{run.folder} holds a finished run, which is never overwritten: choose another hydra.run.dir")
    digests = {path: file_digest(path) for path in files}
    for run, one in zip(runs, found, strict=True):
        config = _config(request, node, one, digests)
        with run.held() as mine:
            if not mine:
                raise UserError(f"{run.folder} is being written by another process: choose another hydra.run.dir")
            run.begin(config, request.overrides)
            try:
                metrics = _write(run, one, table, modalities)
            except BaseException as error:
                with suppress(UserError, OSError):  # the folder is gone, or the disk is full: the error itself matters
                    run.end(state_of(error), sentence_of(error))
                raise
            run.end("finished")
        print(f"{run.folder}: {scores_in_words({k[5:]: v for k, v in metrics.items() if k.startswith('test/')}, 'test')}")
    if len(runs) < FEWEST_SEEDS:
        logger.warning(
            "%s has %d seed%s, and compare claims no difference with fewer than three: give a file for each, or a column seed",
            request.options.name,
            len(runs),
            "" if len(runs) == 1 else "s",
        )
    return runs


def check_name(name: str, config_dir: str | None) -> None:
    """Raise UserError if a name is no short visible text, or is that of a fusion, whose rows it would be taken for."""
    if not name.strip() or name != name.strip() or len(name) > LONGEST or not name.isprintable():
        raise UserError(f"name={name[:LONGEST]} is no name: give a word of at most {LONGEST} letters, such as name=gpt-x")
    if name in choices_of("fusion", config_dir):
        raise UserError(f"name={name} is a fusion, and reports would mix the two: give another name, such as name=my-{name}")


def _load(node: Mapping[str, Any], request: Request, modalities: Sequence[str]) -> MovieTable:
    config = read_part(DataConfig, node, "data")
    config.check_arguments()
    offered = config.target.reads.offers(node)
    if absent := [m for m in modalities if m not in offered]:
        raise UserError(
            f"data={request.data_set} has no {' and no '.join(absent)}: choose modalities among {', '.join(offered)}, joined by +"
        )
    table: MovieTable = config.make().data_set.load(modalities, Store(request.store))
    return table


def _config(request: Request, node: Mapping[str, Any], one: AdoptedRun, digests: Mapping[Path, str]) -> dict[str, Any]:
    """Return the content of config.yaml."""
    sources = [{"file": str(path.absolute()), "sha256": digests[path]} for path in one.files]
    return {
        "adopted": {"name": request.options.name, "sources": sources},
        "data": dict(node),
        "modalities": request.options.modalities,
        "seed": one.seed,
        "store": {"dir": str(request.store)},
        "choices": {"data": request.data_set, "fusion": request.options.name},
        **({"config_dir": request.config_dir} if request.config_dir else {}),
    }


def _write(run: Run, one: AdoptedRun, table: MovieTable, modalities: tuple[str, ...]) -> dict[str, Any]:
    """Write the files of a run that has begun, and return the content of metrics.json."""
    splits = {split: _predictions(one, table, split, modalities) for split in SCORED}
    val, task = splits["val"], table.data_set.task
    tuned = {rule: tune(val.labels, val.probabilities) for rule, tune in TUNED.items()} if task == "multilabel" else {}
    metrics: dict[str, Any] = {}
    for split, found in splits.items():
        found.write(run / f"predictions/{split}.parquet")
        metrics |= {f"{split}/{name}": value for name, value in split_scores(found, None, tuned).items()}
    metrics |= {"contributions_exact": False, **({"threshold@val": tuned["val"]} if tuned else {})}
    metrics |= dict.fromkeys(UNKNOWN_OF_ADOPTED)
    for sentence in (*table.warnings, *_warnings(one, splits)):
        run.warn(sentence)
        if sentence not in table.warnings:
            logger.warning("warning: %s", sentence)
    write_json(run / "audit.json", table.report())
    # Versions and device are left out, because the predictions were made elsewhere.
    made = {"command": shlex.join(sys.argv), "cwd": str(Path.cwd()), "adopted_by": f"gmu_lightning {__version__}"}
    write_json(run / "environment.json", {**made, "seed": one.seed, "data_fingerprint": dict(table.fingerprint)})
    write_gates(run)
    write_json(run / "metrics.json", metrics)
    return metrics


def _predictions(one: AdoptedRun, table: MovieTable, split: str, modalities: tuple[str, ...]) -> Predictions:
    rows = table.rows(split)
    present = [[modality in table.movies[n].content for modality in modalities] for n in rows]
    return Predictions(
        ids=table.ids[split],
        split=split,
        genres=table.vocabulary.names,
        modalities=modalities,
        present=np.array(present, dtype=bool).reshape(len(rows), len(modalities)),
        logits=one.logits(split, table.data_set.task),
        labels=table.labels[rows],
        data_fingerprint=table.fingerprint,
        task=table.data_set.task,
    )


def _warnings(one: AdoptedRun, splits: Mapping[str, Predictions]) -> list[str]:
    found = []
    if one.is_hard:
        found.append(
            f"{HARD}: the predictions are labels and no probabilities, so average precision has two levels to rank by, and "
            "other thresholds have no effect"
        )
    if all(np.array_equal(of.decisions, of.labels) for of in splits.values()):
        found.append("perfect: every movie is predicted as it is labelled, so check that the file holds no true labels")
    return found
