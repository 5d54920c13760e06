"""What a report shows of the movies themselves, read from a run's data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gmu_lightning.data.module import MovieData
from gmu_lightning.data.store import Store
from gmu_lightning.experiment.build import make
from gmu_lightning.experiment.conf import checked_as_data
from gmu_lightning.movie import Movie, UserError
from gmu_lightning.report.gate_evidence import Truth
from gmu_lightning.report.page.shown import Shown, ShownMovie, thumbnail
from gmu_lightning.run import Run, disagreeing


def shown_of(run: Run, movies: Iterable[str]) -> Shown:
    """Plots and small posters of these test movies, and the truth where the data were generated.

    Raises:
        UserError: the data are not where the run found them.
    """
    config = run.config
    checked_as_data(config, run / "config.yaml")
    data: MovieData = make(config["data"])
    store = Store(config["store"]["dir"], read_only=True)
    pending = data.pending(store)
    if pending:
        raise UserError(f"the data of {run.folder} are not there any more ({pending})")
    data.load(tuple(config["modalities"].split("+")), store)
    if disagreeing(data.fingerprint, run.data_fingerprint):
        raise UserError(f"{data.folder} holds other data now than {run.folder} was tested on")
    wanted = set(movies)
    found = {movie.id: _shown(movie) for movie in data.movies if movie.id in wanted}
    return Shown(found, Truth.read(data.folder))


def _shown(movie: Movie) -> ShownMovie:
    plot, poster = movie.content.get("text"), movie.content.get("image")
    return ShownMovie(plot if isinstance(plot, str) else None, thumbnail(poster) if isinstance(poster, Path) else None)
