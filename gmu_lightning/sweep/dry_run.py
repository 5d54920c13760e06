"""List the jobs of a command with check=true, the prepared and cached inputs, and a rough time, without doing the jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gmu_lightning.movie import SPLITS, IncompatibleChoices, UserError
from gmu_lightning.report.settings import few_seeds, invalid
from gmu_lightning.sweep.job import Job

if TYPE_CHECKING:
    from gmu_lightning.config.schema import RunConfig

SECONDS_PER_JOB, SECONDS_PER_MOVIE = 2.0, 0.03  # the order of magnitude on two shared cores; a movie to be prepared or encoded


def show(jobs: Sequence[Job], refused: Sequence[tuple[str, UserError]]) -> None:
    """Print the report on the jobs, if there are any. Raises the first UserError that would end a job."""
    if not jobs and not refused:
        return
    lines, problems = report(jobs, refused)
    print("\n".join(lines))
    if problems:
        raise problems[0]


def report(jobs: Sequence[Job], refused: Sequence[tuple[str, UserError]] = ()) -> tuple[list[str], list[UserError]]:
    """Return a line for each job and each part, and the errors that jobs would end with.

    Args:
        refused: (name, reason) of jobs whose configuration is invalid.
    """
    lines, runnable, problems = _sort_out(jobs, refused)
    parts: dict[str, _Part] = {}
    for job in runnable:
        for modality, key in _keys(job.config):
            if key not in parts:
                parts[key] = _part(job.config, modality)
    lines += [part.line for part in parts.values()]
    problems += [part.problem for part in parts.values() if part.problem is not None]
    if not runnable:
        return [*lines, "nothing would run"], problems
    seconds = SECONDS_PER_JOB * len(runnable) + SECONDS_PER_MOVIE * sum(part.movies for part in parts.values())
    time = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    total = len(jobs) + len(refused)
    seeds: dict[str, set[int]] = {}
    for job in runnable:
        seeds.setdefault(job.config.setting, set()).add(job.config.seed)
    lines += [caution] if (caution := few_seeds(seeds.values())) else []
    return [*lines, f"{len(runnable)} of {total} jobs would run: very roughly {time}, with frozen encoders"], problems


def _sort_out(jobs: Sequence[Job], refused: Sequence[tuple[str, UserError]]) -> tuple[list[str], list[Job], list[UserError]]:
    """Return a line for each job, the distinct jobs that would run, and the errors of the others. Raises that of a run alone."""
    from gmu_lightning.experiment.choices import check_choices

    lines: list[str] = []
    runnable: dict[str, Job] = {}
    left = list(refused)
    for job in jobs:
        name = Path(job.folder).name if job.sweep else "this run"
        try:
            check_choices(job.config)
        except UserError as reason:
            if job.sweep is None:
                raise
            left.append((name, reason))
            continue
        again = job.config.identity in runnable
        lines.append(f"{'once ' if again else 'run  '} {name}{': an equal job stands above' if again else ''}")
        runnable.setdefault(job.config.identity, job)
    problems = [(name, reason) for name, reason in left if not isinstance(reason, IncompatibleChoices)]
    skipped = [str(reason) for _, reason in left if isinstance(reason, IncompatibleChoices)]
    lines += [f"stop  {name}: {reason}" for name, reason in problems]
    if skipped:
        lines.append(f"skip  {invalid(len(skipped), len(jobs) + len(refused))}")
        lines += [] if runnable else [f"      {reason}" for reason in dict.fromkeys(skipped)]
    return lines, list(runnable.values()), [reason for _, reason in problems]


@dataclass(frozen=True)
class _Part:
    """One encoder over one data set.

    Attributes:
        line: of the report.
        problem: the error that would end its jobs; None if they can run.
        movies: number of movies still to be prepared, plus the number still to be encoded.
    """

    line: str
    problem: UserError | None = None
    movies: int = 0


def _keys(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield each modality with a key; jobs of equal keys read the same part."""
    also = f"{config.fusion.target.needs}{config.encode}"
    for modality in config.modalities:
        yield modality, f"{config.data.node}{modality}{config.encoder[modality].node}{also}"


def _part(config: RunConfig, modality: str) -> _Part:
    from gmu_lightning.data.store import Store, column_key
    from gmu_lightning.encoders.weights import remember_in
    from gmu_lightning.features.columns import feature_key, is_cacheable

    name = f"{modality}={config.choices.get(f'encoder/{modality}', '')}"
    try:
        encoder = config.encoder[modality].make()
        encoder.check()
        data = config.data.make().data_set
        store = Store.of(config.store, read_only=True)
        remember_in(store.root / "weights", read_only=True)
        weights = "weights found" if encoder.pretrained else "from scratch"
        pending = data.pending(store)
        if pending:
            return _Part(f"data  {config.choices.get('data')}: {pending}; {name}: {weights}")
        table = data.load(config.modalities if data.missing else (modality,), store)
    except UserError as error:
        return _Part(f"stop  {name}: {error}", error)
    fusion = config.fusion.target
    cacheable = is_cacheable(encoder, fusion)
    column = column_key(modality, table.digests[modality], table.learned_from(modality), encoder.preparation)
    features = feature_key(column, encoder, encoder.sequences and fusion.reads_tokens(modality), config.encode.precision)
    prepared, cached = store.has("columns", column), cacheable and store.has("features", features)
    state = "computed in every step" if not cacheable else "features cached" if cached else "features to be computed once"
    sizes = "/".join(str(len(table.rows(split))) for split in SPLITS)
    drawn = f" ({config.data.drawn})" if config.data.drawn else ""
    line = f"data  {config.choices.get('data')} {sizes} movies{drawn}, {name}: {weights}"
    line += f", {'prepared' if prepared else 'to be prepared'}, {state}"
    return _Part(line, movies=len(table.movies) * ((not prepared) + (cacheable and not cached)))
