"""Read the data of a run without training: prepare its columns for later runs, or read example movies for a report."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from gmu_lightning.config.resolve import known_modalities
from gmu_lightning.config.schema import DataConfig, RunConfig
from gmu_lightning.data.store import Store
from gmu_lightning.experiment import build
from gmu_lightning.experiment.environment import prepare_process
from gmu_lightning.experiment.train import keep_audit, log_audit
from gmu_lightning.files import write_json
from gmu_lightning.movie import Movie, UserError
from gmu_lightning.report.figures import genre_distribution, save
from gmu_lightning.report.gates import Truth
from gmu_lightning.report.page.movies import ExampleMovie, ExampleMovies, thumbnail
from gmu_lightning.run import Run, disagreeing


def prepare(config: RunConfig, folder: Path) -> None:
    """Store the prepared column of every chosen modality, and write audit.json and the genre distribution to `folder`.

    Weights are loaded only for networks that read trailers while they are decoded.

    Args:
        config: names the data, the encoders and the store.
        folder: receives audit.json, genres.png and genres.svg.

    Raises:
        UserError: the data cannot be read, or `data.strict=true` and the audit found a problem.
    """
    prepare_process()
    store = Store.of(config.store)
    present = {}
    with keep_audit(folder):
        table = build.load_table(config, store)
        for modality in config.modalities:
            encoder = config.encoder[modality].make()
            table, column = build.prepare_column(table, encoder, store)
            present[modality] = column.present | table.taken(modality)
            where = store.root / "columns" / column.key
            print(f"{modality}: {int(column.present.sum())} of {len(table.movies)} movies, in {where}")
        table = table.stored(present)
    report = table.report()
    write_json(folder / "audit.json", report)
    save(genre_distribution(report["genres"], table.data_set.task), folder / "genres")
    log_audit(table, table.warnings)
    sizes = ", ".join(f"{n} {split}" for split, n in report["movies"].items())
    print(f"{table.layout.name}: {sizes} movies, {len(table.vocabulary)} genres; see {folder}")
    table.raise_if_strict()


def read_examples(run: Run, movies: Iterable[str], config_dir: str | None = None) -> ExampleMovies:
    """Return plots and small posters of some movies of a run, and the planted truth if the data was generated.

    Args:
        run: names the data in its config.yaml.
        movies: ids.
        config_dir: a folder whose data sets the run may name; None accepts the package's alone.

    Raises:
        UserError: the run names another data set, or the data is no longer where the run found it, or has changed.
    """
    recorded = run.config
    config = DataConfig.recorded(recorded, run / "config.yaml", config_dir)
    data_set = config.make().data_set
    store = Store(recorded["store"]["dir"], read_only=True)
    pending = data_set.pending(store)
    if pending:
        raise UserError(f"the data of {run.folder} are not there any more ({pending})")
    table = data_set.load(known_modalities(recorded["modalities"]), store)
    if disagreeing(table.fingerprint, run.data_fingerprint):
        raise UserError(f"{table.layout.root} holds other data now than {run.folder} was tested on")
    wanted = set(movies)
    found = {movie.id: _example(movie, table.lost_by(n)) for n, movie in enumerate(table.movies) if movie.id in wanted}
    return ExampleMovies(found, Truth.read(table.layout.root))


def _example(movie: Movie, lost: Collection[str]) -> ExampleMovie:
    plot, poster = (None if m in lost else movie.content.get(m) for m in ("text", "image"))
    return ExampleMovie(plot if isinstance(plot, str) else None, thumbnail(poster) if isinstance(poster, Path) else None)
