"""check=true: what would happen, said before anything does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gmu_lightning.experiment.settle import modalities_of
from gmu_lightning.movie import SPLITS, Senseless, UserError
from gmu_lightning.run import identity
from gmu_lightning.sweep.job import Job

if TYPE_CHECKING:
    from gmu_lightning.data.module import MovieData
    from gmu_lightning.data.store import Store

# Rough costs on two shared cores: an estimate claims no more than the order of magnitude.
SECONDS_PER_JOB, SECONDS_PER_STEP = 2.0, 0.006
SECONDS_PER_MOVIE = {"prepare": 0.003, "encode": 0.03, "train": 0.05}
BYTES_PER_MOVIE = {"text": 1_000, "image": 150_000, "video": 3_300_000, "audio": 1_500_000, "metadata": 1_300}
LEARNED_WIDTH = 4096  # numbers, where only train will tell
BYTES_PER_NUMBER = {"float32": 4, "float16": 2}
JOB_BYTES, STACK_BYTES = 6e6, 900e6


class Plans:
    """The jobs of a command that only checks.

    Attributes:
        jobs: those that could be settled.
        refused: (name, reason) of the others.
    """

    jobs: ClassVar[list[Job]] = []
    refused: ClassVar[list[tuple[str, UserError]]] = []

    @classmethod
    def add(cls, job: Job, alone: bool = False) -> None:
        """One job; a run alone is shown at once, and parts that do not go together are its error."""
        cls.jobs.append(job)
        if alone:
            from gmu_lightning.experiment.build import check_sense

            check_sense(job.config)
            cls.show()

    @classmethod
    def show(cls) -> None:
        """Print the plan, if anything was checked. Raises the first UserError that would end a job."""
        jobs, refused, cls.jobs, cls.refused = cls.jobs, cls.refused, [], []
        if not jobs and not refused:
            return
        lines, problems = plan(jobs, refused)
        print("\n".join(lines))
        if problems:
            raise problems[0]


@dataclass(frozen=True)
class _Part:
    """One encoder over one data set: what is there, and what getting it would cost once."""

    line: str
    problem: UserError | None = None
    seconds: float = 0.0
    bytes: float = 0.0
    seconds_per_epoch: float = 0.0
    train_movies: int = 0


def plan(jobs: Sequence[Job], refused: Sequence[tuple[str, UserError]] = ()) -> tuple[list[str], list[UserError]]:
    """List the jobs that would run, what is there already, and the rough cost; and the errors that jobs would end with.

    Args:
        refused: name and reason of jobs that could not be settled.
    """
    lines, runnable, problems = _sorted_out(jobs, refused)
    parts: dict[str, _Part] = {}
    seconds = 0.0
    for job in runnable:
        keys = _keys(job.config)
        for modality, key in keys.items():
            if key not in parts:
                parts[key] = _part(job.config, modality)
        needed = [parts[key] for key in keys.values()]
        epochs = int(job.config["trainer"]["max_epochs"])
        steps = max((part.train_movies for part in needed), default=0) / int(job.config["data"]["batch_size"])
        seconds += SECONDS_PER_JOB + epochs * (steps * SECONDS_PER_STEP + sum(part.seconds_per_epoch for part in needed))
    lines += [part.line for part in parts.values()]
    problems += [part.problem for part in parts.values() if part.problem is not None]
    if not runnable:
        return [*lines, "nothing would run"], problems
    seconds += sum(part.seconds for part in parts.values())
    shared = sum(part.bytes for part in parts.values())
    free = shutil.disk_usage(_existing(Path(runnable[0].config["store"]["dir"]))).free
    cost = (
        f"{len(runnable)} of {len(jobs) + len(refused)} jobs would run: very roughly {_time(seconds)} one by one "
        f"on {os.cpu_count()} cores, "
        f"{(STACK_BYTES + shared) / 1e6:.0f} MB of memory a job, "
        f"{(shared + len(runnable) * JOB_BYTES) / 1e6:.0f} MB of disk ({free / 1e9:.0f} GB free)"
    )
    return [*lines, cost], problems


def _sorted_out(jobs: Sequence[Job], refused: Sequence[tuple[str, UserError]]) -> tuple[list[str], list[Job], list[UserError]]:
    from gmu_lightning.experiment.build import check_sense

    problems: list[UserError] = []

    def left(name: str, reason: UserError) -> str:
        if isinstance(reason, Senseless):
            return f"skip  {name}: {reason}"
        problems.append(reason)
        return f"stop  {name}: {reason}"

    lines = [left(*one) for one in refused]
    runnable: dict[str, Job] = {}
    for job in jobs:
        name = Path(job.folder).name if job.sweep else "this run"
        try:
            check_sense(job.config)
        except UserError as reason:
            lines.append(left(name, reason))
            continue
        again = identity(job.config) in runnable
        lines.append(f"{'once ' if again else 'run  '} {name}{': an equal job stands above' if again else ''}")
        runnable.setdefault(identity(job.config), job)
    return lines, list(runnable.values()), problems


def _keys(config: Mapping[str, Any]) -> dict[str, str]:
    from gmu_lightning.experiment.build import needs_of

    needs = needs_of(config)
    kept_in = config["store"].get("precision")
    also = f"{needs}{kept_in}{config.get('encode')}"
    return {m: f"{config['data']}{m}{config['encoder'][m]}{also}" for m in modalities_of(config["modalities"])}


def _part(config: Mapping[str, Any], modality: str) -> _Part:
    from gmu_lightning.data.store import Store, column_key
    from gmu_lightning.encoders.memory import remember_in
    from gmu_lightning.experiment.build import encoding_of, kept, kept_in_part, make, needs_of
    from gmu_lightning.features import feature_key
    from gmu_lightning.frozen_blocks import partial_key

    name = f"{modality}={config['choices'].get(f'encoder/{modality}', '')}"
    try:
        encoder = make(config["encoder"][modality])
        encoder.check()
        precision = encoding_of(config).precision
        data: MovieData = make(config["data"])
        store = Store.of(config["store"], read_only=True)
        remember_in(store.root / "weights", read_only=True)
        pending = data.pending(store)
        if pending:
            return _Part(f"data  {config['choices'].get('data')}: {pending}; {name}: {_weights(encoder)}")
        data.load((modality,), store)
    except UserError as error:
        return _Part(f"stop  {name}: {error}", error)
    needs = needs_of(config)
    cacheable = kept(encoder, needs)
    column = column_key(modality, data.digests[modality], data.in_train, encoder.preparation)
    features = feature_key(column, encoder, needs != "vector" and encoder.sequences, store.precision, precision)
    prepared, cached = store.has("columns", column), cacheable and store.has("features", features)
    state = "computed in every step" if not cacheable else "features cached" if cached else "features to be computed once"
    if store.blocks and kept_in_part(encoder, needs):
        blocks = store.has("features", partial_key(column, encoder, store.precision))
        state += f", what its frozen blocks give {'cached' if blocks else 'to be computed once, where there is room'}"
    line = f"{_weights(encoder)}, {'prepared' if prepared else 'to be prepared'}, {state}"
    return _look(data, encoder, cacheable, prepared, cached, store, f"{config['choices'].get('data')}", f"{name}: {line}")


def _look(
    data: MovieData, encoder: Any, cacheable: bool, prepared: bool, cached: bool, store: Store, data_name: str, said: str
) -> _Part:
    movies, modality = len(data.movies), encoder.modality
    sizes = "/".join(str(len(data.rows(split))) for split in SPLITS)
    train = len(data.rows("train"))
    return _Part(
        f"data  {data_name} {sizes} movies, {said}",
        seconds=movies
        * (SECONDS_PER_MOVIE["prepare"] * (not prepared) + SECONDS_PER_MOVIE["encode"] * (cacheable and not cached)),
        bytes=movies
        * (
            BYTES_PER_MOVIE.get(modality, 10_000) * (not prepared)
            + BYTES_PER_NUMBER[store.precision] * _width(encoder) * (cacheable and not cached)
        ),
        seconds_per_epoch=0.0 if cacheable or not encoder.pretrained else train * SECONDS_PER_MOVIE["train"],
        train_movies=train,
    )


def _width(encoder: Any) -> int:
    try:
        return encoder.dim
    except RuntimeError:  # it is learned from train, and a check prepares nothing
        return LEARNED_WIDTH


def _weights(encoder: Any) -> str:
    return "weights found" if encoder.pretrained else "from scratch"


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
